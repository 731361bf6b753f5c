"""The instructions of a convolution: depthwise, sparse, or dense with a sparse rest."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.patches import IN_PLACE
from strzoo.engine.codegen.quads import set_words
from strzoo.engine.codegen.windows import DepthwiseKernel
from strzoo.engine.ir.fixed import FixedConvolution
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.ir.quads import QuadConvolution
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.patches import find_patch, list_copies
from strzoo.engine.layout.tiling import Tiling, choose_tiling, is_depthwise, pose_problem
from strzoo.engine.lowering.context import (
    LoweringContext,
    bounds_of,
    pieces_of,
    planes_of,
    window_fields,
)
from strzoo.engine.lowering.quad_weights import find_quad_nonzeros, quad_table
from strzoo.engine.lowering.weights import (
    PARTS,
    DenseTable,
    Nonzeros,
    Shares,
    SparseTable,
    dense_table,
    find_nonzeros,
    sparse_table,
)

UNEVEN = 1.1  # times an even share that a thread may get of a layer's tiles and their parts
NARROW = 6  # vectors of a tile; with so few sums, each waits for the one before
LONG = 24  # weights of a row and block, for which a second set of sums pays


class ConvolutionLowering:
    """Lowers one convolution, whose window moves over `source`."""

    def __init__(
        self, context: LoweringContext, layer: Convolution, source: Buffer, target: Buffer
    ) -> None:
        self.context, self.layer, self.source, self.target = context, layer, source, target
        self.taps = context.memory.taps[layer.name]
        self.residual = context.memory.values[layer.inputs[1]] if len(layer.inputs) > 1 else None
        self.tile = target.layout.tile
        # The kernel reads the tile of each plane in place, or a patch of it.
        self.offsets = np.zeros(len(self.taps.offsets), np.int64)
        self.form, self.copies = IN_PLACE, None
        if self.taps.window:
            patch = find_patch(self.taps, self.tile, target.layout.blocking)
            self.offsets = patch.byte_offsets(self.taps, context.lanes)
            self.copies = list_copies(self.taps, patch, source, target.layout)
            self.form = self.copies.form
        self.plane = 4 * context.lanes * (self.form.size or self.tile)

    def lower(self) -> None:
        context, weight = self.context, self.layer.weight
        if is_depthwise(self.layer):
            self._depthwise()
            return
        tiling = context.tilings.get(self.layer.name)
        if tiling is None or tiling.tile != self.tile:
            blocking = self.target.layout.blocking
            problem = pose_problem(
                self.layer, self.taps, blocking, context.threads, whole_rows=False
            )
            tiling = choose_tiling(problem, self.tile, context.hardware)
        rows = len(weight)
        if isinstance(self.layer, QuadConvolution):
            self._quads(self.layer, tiling)
            self._describe(tiling, 0)
            return
        nonzeros = find_nonzeros(self.layer, self.taps, self.offsets)
        grouped = rows // tiling.group * tiling.group if tiling.group > 1 else 0
        if grouped:
            self._dense(tiling, grouped)
        if grouped < rows:
            rest = Tiling(tiling.tile, tiling.channel_blocks) if grouped else tiling
            self._sparse(rest, nonzeros.rows_from(grouped), grouped)
        self._describe(tiling, grouped)

    def _describe(self, tiling: Tiling, grouped: int) -> None:
        kind = f"dense, {tiling.group} rows" if grouped else "sparse"
        blocks = f", {tiling.channel_blocks} blocks" if tiling.channel_blocks > 1 else ""
        self.context.chosen[self.layer.name] = f"{kind}, tile {tiling.tile}{blocks}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return ", int16" if self.target.fixed else ", int8" if self.target.quads else ""

    @property
    def _shares(self) -> Shares:
        """As few parts as give threads equal work, or the most possible."""
        threads, tiles = self.context.threads, self.target.layout.tiles
        even = (
            parts for parts in range(1, PARTS)
            if -(-tiles * parts // threads) * threads <= UNEVEN * tiles * parts
        )  # fmt: skip
        return Shares(threads, next(even, PARTS))

    def _quads(self, layer: QuadConvolution, tiling: Tiling) -> None:
        nonzeros = find_quad_nonzeros(layer, self.taps, self.offsets)
        vector, blocks = 4 * self.context.lanes, tiling.channel_blocks
        words = set_words(self.context.lanes, self.tile)
        table = quad_table(nonzeros, blocks, self.plane, vector, words, self._shares)
        self._add(tiling, table, nonzeros.rows, 0, 1)

    def _sparse(self, tiling: Tiling, nonzeros: Nonzeros, first: int) -> None:
        vector, blocks = 4 * self.context.lanes, tiling.channel_blocks
        table = sparse_table(nonzeros, blocks, self.plane, vector, self._shares)
        self._add(tiling, table, nonzeros.rows, first, 1)

    def _dense(self, tiling: Tiling, rows: int) -> None:
        weight = self.layer.weight[:rows]
        table = dense_table(
            weight.reshape(rows, weight.shape[1], -1),
            self.taps,
            self.offsets,
            tiling.group,
            tiling.channel_blocks,
            self.plane,
        )
        self._add(tiling, table, rows, 0, tiling.group)

    def _add(
        self, tiling: Tiling, table: SparseTable | DenseTable, rows: int, first: int, group: int
    ) -> None:
        context, target, layout = self.context, self.target, self.target.layout
        bounds, low, high = bounds_of(self.layer.bounds)
        blocked = tiling.channel_blocks > 1
        partial = rows * self.tile * context.lanes * 4 if blocked else 0
        largest = int(np.diff(table.block_planes).max())
        _, slab = context.reserve(partial, self.plane * largest if self.form.size else 0)
        weights = order = fours = slots = 0
        twice = False
        if isinstance(table, SparseTable):
            long = len(table.weights) >= LONG * rows * tiling.channel_blocks
            twice = long and self.tile <= NARROW and not target.fixed
            weights = context.constants.add(table.weights, spare=64)
            order = context.constants.add(table.order)
            fours = context.constants.add(table.fours) if target.fixed else 0
            slots = context.constants.add(table.slots) if target.quads else 0
        skipped = first * target.plane
        residual = {"residual": 0, "residual_plane": 0, "residual_tile": 0}
        if self.residual is not None:
            residual = planes_of("residual", self.residual)
            residual["residual"] += skipped
        fields = planes_of("target", target)
        fields["target"] += skipped
        last = layout.vectors - (layout.tiles - 1) * layout.tile
        bias, limits = self._numbers(first, first + rows)
        scales = 0
        if isinstance(self.layer, QuadConvolution):
            bounds, low, high = "none", self.layer.residual_scale, self.layer.shift
            scales = context.constants.add(_filled(self.layer.scales, rows, np.float32))
        kernel = ConvolutionKernel(
            context.lanes,
            self.tile,
            last,
            group,
            self.form,
            twice,
            blocked,
            self.residual is not None,
            target.must_be_clean,
            bounds,
            target.fixed,
            target.quads,
            self.source.zero,
            target.zero,
        )
        context.add(
            self.layer.name,
            kernel,
            {
                **planes_of("source", self.source),
                **fields,
                **residual,
                **pieces_of(target),
                "tiles": layout.tiles,
                "rows": rows,
                "parts": len(table.part_rows) - 1,
                "part_rows": context.constants.add(table.part_rows),
                "blocks": tiling.channel_blocks,
                "ends": context.constants.add(table.ends),
                "entries": context.constants.add(table.entries, spare=64),
                "weights": weights,
                "slots": slots,
                "fours": fours,
                "order": order,
                "bias": bias,
                "scales": scales,
                "row_bounds": limits,
                "mask": context.mask(target),
                "block_planes": context.constants.add(table.block_planes),
                "slab": slab,
                **context.copy_fields(self.copies),
                "low": low,
                "high": high,
            },
        )

    def _numbers(self, first: int, last: int) -> tuple[int, int]:
        """The places of the constants of the rows [first, last): bias, and bounds if needed."""
        layer, add = self.layer, self.context.constants.add
        if isinstance(layer, QuadConvolution):
            return add(_filled(layer.bias, last, np.int32)), 0
        if not isinstance(layer, FixedConvolution):
            return add(layer.bias[first:last].astype(np.float32)), 0
        limits = 0 if layer.limits is None else add(layer.limits[first:last])
        return add(layer.bias[first:last]), limits

    def _depthwise(self) -> None:
        context, layer = self.context, self.layer
        walk, fields = window_fields(context, layer, self.source, self.target)
        multiplier = len(layer.weight) // layer.groups
        bounds, low, high = bounds_of(layer.bounds)
        context.chosen[layer.name] = "depthwise" + self._suffix
        weight = layer.weight
        if isinstance(layer, FixedConvolution):
            weight = weight.astype(np.int16)
        bias, limits = self._numbers(0, len(weight))
        context.add(
            layer.name,
            DepthwiseKernel(walk, len(self.offsets), multiplier > 1, bounds),
            fields
            | {
                "multiplier": multiplier,
                "weights": context.constants.add(weight.reshape(len(weight), -1)),
                "bias": bias,
                "row_bounds": limits,
                "low": low,
                "high": high,
            },
        )


def _filled(values: np.ndarray | None, rows: int, kind: type) -> np.ndarray:
    """`values` and zeros, for `rows` rows in all."""
    assert values is not None
    found: np.ndarray = np.zeros(rows, kind)
    found[: len(values)] = values
    return found
