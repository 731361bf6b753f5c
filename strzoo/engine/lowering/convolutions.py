"""The steps of a convolution: depthwise, sparse, dense, or dense for most rows and sparse after."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.patches import IN_PLACE
from strzoo.engine.codegen.windows import DepthwiseKernel
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.layout.buffers import Map
from strzoo.engine.layout.patches import find_patch, list_moves
from strzoo.engine.layout.tiling import Tiling, choose_tiling, is_depthwise, pose_problem
from strzoo.engine.lowering.context import Assembly, bounds_of, pieces_of, planes_of, window_fields
from strzoo.engine.lowering.weights import (
    DenseTable,
    Nonzeros,
    SparseTable,
    dense_table,
    find_nonzeros,
    sparse_table,
)

NARROW = 6  # vectors of a tile: their sums wait for each other
LONG = 24  # weights of a row and block, for which a second set of sums pays


class ConvolutionWriter:
    """Writes the steps of one convolution, whose window moves over `source`."""

    def __init__(self, work: Assembly, layer: Convolution, source: Map, target: Map) -> None:
        self.work, self.layer, self.source, self.target = work, layer, source, target
        self.taps = work.placement.taps[layer.name]
        self.residual = work.placement.values[layer.inputs[1]] if len(layer.inputs) > 1 else None
        self.tile = target.geometry.tile
        # What the kernel reads of each plane: the tile in place, or a patch.
        self.offsets = np.zeros(len(self.taps.steps), np.int64)
        self.form, self.moves = IN_PLACE, None
        if self.taps.window:
            patch = find_patch(self.taps, self.tile, target.geometry.regions)
            self.offsets = patch.offsets(self.taps, work.lanes)
            self.moves = list_moves(self.taps, patch, source, target.geometry)
            self.form = self.moves.form
        self.plane = 4 * work.lanes * (self.form.size or self.tile)

    def write(self) -> None:
        work, weight = self.work, self.layer.weight
        if is_depthwise(self.layer):
            self._depthwise()
            return
        tiling = work.tilings.get(self.layer.name)
        if tiling is None or tiling.tile != self.tile:
            regions = self.target.geometry.regions
            problem = pose_problem(self.layer, self.taps, regions, work.threads, whole_rows=False)
            tiling = choose_tiling(problem, self.tile, work.hardware)
        rows = len(weight)
        nonzeros = find_nonzeros(self.layer, self.taps, self.offsets)
        grouped = rows // tiling.group * tiling.group if tiling.group > 1 else 0
        if grouped:
            self._dense(tiling, grouped)
        if grouped < rows:
            rest = Tiling(tiling.tile, tiling.blocks) if grouped else tiling
            self._sparse(rest, nonzeros.rows_from(grouped), grouped)
        kind = f"dense, {tiling.group} rows" if grouped else "sparse"
        blocks = f", {tiling.blocks} blocks" if tiling.blocks > 1 else ""
        work.chosen[self.layer.name] = f"{kind}, tile {tiling.tile}{blocks}"

    def _sparse(self, tiling: Tiling, nonzeros: Nonzeros, first: int) -> None:
        table = sparse_table(nonzeros, tiling.blocks, self.plane, 4 * self.work.lanes)
        self._step(tiling, table, nonzeros.rows, first, 1)

    def _dense(self, tiling: Tiling, rows: int) -> None:
        weight = self.layer.weight[:rows]
        table = dense_table(
            weight.reshape(rows, weight.shape[1], -1),
            self.taps,
            self.offsets,
            tiling.group,
            tiling.blocks,
            self.plane,
        )
        self._step(tiling, table, rows, 0, tiling.group)

    def _step(
        self, tiling: Tiling, table: SparseTable | DenseTable, rows: int, first: int, group: int
    ) -> None:
        work, target, frame = self.work, self.target, self.target.geometry
        bounds, low, high = bounds_of(self.layer.bounds)
        blocked = tiling.blocks > 1
        partial = rows * self.tile * work.lanes * 4 if blocked else 0
        largest = int(np.diff(table.block_planes).max())
        _, slab = work.reserve(partial, self.plane * largest if self.form.size else 0)
        weights = order = 0
        twice = False
        if isinstance(table, SparseTable):
            long = len(table.weights) >= LONG * rows * tiling.blocks
            twice = long and self.tile <= NARROW
            weights = work.constants.add(table.weights, spare=64)
            order = work.constants.add(table.order)
        skipped = first * target.plane
        residual = {"residual": 0, "residual_plane": 0, "residual_tile": 0}
        if self.residual is not None:
            residual = planes_of("residual", self.residual)
            residual["residual"] += skipped
        fields = planes_of("target", target)
        fields["target"] += skipped
        last = frame.vectors - (frame.tiles - 1) * frame.tile
        kernel = ConvolutionKernel(
            work.lanes,
            self.tile,
            last,
            group,
            self.form,
            twice,
            blocked,
            self.residual is not None,
            target.must_be_clean,
            bounds,
        )
        work.add(
            self.layer.name,
            kernel,
            {
                **planes_of("source", self.source),
                **fields,
                **residual,
                **pieces_of(target),
                "tiles": frame.tiles,
                "rows": rows,
                "parts": len(table.part_rows) - 1,
                "part_rows": work.constants.add(table.part_rows),
                "blocks": tiling.blocks,
                "ends": work.constants.add(table.ends),
                "entries": work.constants.add(table.entries, spare=64),
                "weights": weights,
                "order": order,
                "bias": work.constants.add(self.layer.bias[first : first + rows].astype("f4")),
                "mask": work.mask(target),
                "block_planes": work.constants.add(table.block_planes),
                "slab": slab,
                **work.move_fields(self.moves),
                "low": low,
                "high": high,
            },
        )

    def _depthwise(self) -> None:
        work, layer = self.work, self.layer
        walk, fields = window_fields(work, layer, self.source, self.target)
        multiplier = len(layer.weight) // layer.groups
        bounds, low, high = bounds_of(layer.bounds)
        work.chosen[layer.name] = "depthwise"
        work.add(
            layer.name,
            DepthwiseKernel(walk, len(self.offsets), multiplier > 1, bounds),
            fields
            | {
                "multiplier": multiplier,
                "weights": work.constants.add(layer.weight.reshape(len(layer.weight), -1)),
                "bias": work.constants.add(layer.bias.astype(np.float32)),
                "low": low,
                "high": high,
            },
        )
