"""The steps of a convolution: depthwise, sparse, dense, or dense for most rows and sparse after."""

from __future__ import annotations

import numpy as np

from strzoo.engine.assembly import (
    Assembly,
    bounds_of,
    packed_range,
    planes_of,
    window_fields,
)
from strzoo.engine.emission.convolution import ConvolutionKernel
from strzoo.engine.emission.windows import DepthwiseKernel
from strzoo.engine.graph import Convolution
from strzoo.engine.layout import Map
from strzoo.engine.tiling import Tiling, choose_tiling, pose_problem
from strzoo.engine.weights import (
    DenseTable,
    Nonzeros,
    SparseTable,
    dense_table,
    find_nonzeros,
    is_depthwise,
    sparse_table,
)


class ConvolutionWriter:
    """Writes the steps of one convolution, whose window moves over `source` by one."""

    def __init__(self, work: Assembly, layer: Convolution, source: Map, target: Map) -> None:
        self.work, self.layer, self.source, self.target = work, layer, source, target
        self.taps = work.placement.taps[layer.name]
        self.offsets = self.taps.offsets(source.geometry.pitch, work.images)
        self.residual = work.placement.values[layer.inputs[1]] if len(layer.inputs) > 1 else None
        # What the kernel reads of each plane: the tile, or a packed copy of more than the tile.
        self.tile = target.geometry.tile
        self.first, self.packed = 0, 0
        if self.taps.window:
            self.first, self.packed = packed_range(self.offsets, self.tile, 4 * work.lanes)
        self.plane = 4 * work.lanes * (self.packed or self.tile)

    def write(self) -> None:
        work, weight = self.work, self.layer.weight
        if is_depthwise(self.layer):
            self._depthwise()
            return
        images, frame = work.images, self.source.geometry
        problem = pose_problem(
            self.layer, self.taps, self.target, frame.pitch, images, work.hardware, work.threads
        )
        tiling = work.tilings.get(self.layer.name)
        if tiling is None or tiling.tile != self.tile:
            tiling = choose_tiling(problem, self.tile, work.hardware)
        rows = len(weight)
        nonzeros = find_nonzeros(self.layer, self.taps, self.offsets - self.first * 4 * work.lanes)
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
        table = sparse_table(nonzeros, tiling.blocks, self.plane, local=bool(self.packed))
        self._step(tiling, table, nonzeros.rows, first, 1)

    def _dense(self, tiling: Tiling, rows: int) -> None:
        weight = self.layer.weight[:rows]
        table = dense_table(
            weight.reshape(rows, weight.shape[1], -1),
            self.taps,
            self.offsets - self.first * 4 * self.work.lanes,
            tiling.group,
            tiling.blocks,
            self.plane,
            local=bool(self.packed),
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
        slab_bytes = self.plane * largest + 64 if self.packed else 0
        _, slab, places = work.reserve(partial, slab_bytes, 8 * self.packed)
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
            self.packed,
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
                "source_vectors": self.source.geometry.vectors,
                "tiles": frame.tiles,
                "rows": rows,
                "parts": len(table.part_rows) - 1,
                "part_rows": work.constants.add(table.part_rows),
                "blocks": tiling.blocks,
                "ends": work.constants.add(table.ends),
                "entries": work.constants.add(table.entries, spare=64),
                "bias": work.constants.add(self.layer.bias[first : first + rows].astype("f4")),
                "mask": work.mask(target),
                "block_planes": work.constants.add(table.block_planes),
                "first": self.first,
                "slab": slab,
                "places": places,
                "low": low,
                "high": high,
            },
        )

    def _depthwise(self) -> None:
        work, layer = self.work, self.layer
        walk, fields = window_fields(work, layer, self.source, self.target)
        bounds, low, high = bounds_of(layer.bounds)
        work.chosen[layer.name] = "depthwise"
        work.add(
            layer.name,
            DepthwiseKernel(walk, len(self.offsets), bounds),
            fields
            | {
                "multiplier": len(layer.weight) // layer.groups,
                "weights": work.constants.add(layer.weight.reshape(len(layer.weight), -1)),
                "bias": work.constants.add(layer.bias.astype(np.float32)),
                "low": low,
                "high": high,
            },
        )
