"""The steps of a convolution: depthwise, sparse, dense, or dense for most rows and sparse after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from strzoo.engine.emission.convolution import ConvolutionKernel
from strzoo.engine.emission.windows import DepthwiseKernel
from strzoo.engine.graph import Convolution
from strzoo.engine.layout import Map
from strzoo.engine.tiling import Problem, Tiling, choose_tiling, tile_count
from strzoo.engine.weights import (
    DenseTable,
    Nonzeros,
    SparseTable,
    dense_table,
    find_nonzeros,
    is_depthwise,
    sparse_table,
)

if TYPE_CHECKING:
    from strzoo.engine.assembly import Assembly


class ConvolutionWriter:
    """Writes the steps of one convolution, whose window moves over `source` by one."""

    def __init__(self, work: Assembly, layer: Convolution, source: Map, target: Map) -> None:
        self.work, self.layer, self.source, self.target = work, layer, source, target
        self.taps = work.placement.taps[layer.name]
        self.offsets = self.taps.offsets(source.geometry)
        self.residual = (
            work.placement.values[layer.inputs[1]] if len(layer.inputs) > 1 else None
        )

    def write(self) -> None:
        weight = self.layer.weight
        if is_depthwise(self.layer):
            self._depthwise()
            return
        nonzeros = find_nonzeros(self.layer, self.taps, self.offsets)
        problem = self.problem(nonzeros)
        tiling = self.work.tilings.get(self.layer.name) or choose_tiling(problem, self.work.hardware)
        rows = len(weight)
        grouped = rows // tiling.group * tiling.group if tiling.group > 1 else 0
        if grouped:
            self._dense(tiling, grouped)
        if grouped < rows:
            rest = Tiling(tiling.tile, 1, False) if grouped else tiling
            self._sparse(rest, self._rows_from(nonzeros, grouped), grouped)
        density = nonzeros.count / weight.size
        kind = f"dense {tiling.group}x{tiling.tile}" if grouped else f"sparse {tiling.tile}"
        blocks = f", {tiling.blocks} blocks" if tiling.blocks > 1 else ""
        packed = ", packed" if tiling.packed else ""
        self.work.chosen[self.layer.name] = f"{kind}{blocks}{packed}, density {100 * density:.1f} %"

    def problem(self, nonzeros: Nonzeros) -> Problem:
        frame = self.source.geometry
        row_vector = frame.row % (4 * self.work.lanes) == 0
        aligned = row_vector and all(
            x * frame.images % self.work.lanes == 0 for _, x in self.taps.steps
        )
        return Problem(
            vectors=self.work.vectors(self.target),
            rows=nonzeros.rows,
            planes=nonzeros.planes,
            phases=nonzeros.phases,
            nonzeros=nonzeros.count,
            weights=self.layer.weight.size,
            reach=nonzeros.highest - nonzeros.lowest,
            window=len(self.offsets) > 1,
            groups=self.layer.groups,
            aligned=aligned,
            threads=self.work.threads,
        )

    @staticmethod
    def _rows_from(nonzeros: Nonzeros, first: int) -> Nonzeros:
        if not first:
            return nonzeros
        kept = nonzeros.row >= first
        return Nonzeros(
            nonzeros.rows - first,
            nonzeros.planes,
            nonzeros.phases,
            nonzeros.row[kept] - first,
            nonzeros.plane[kept],
            nonzeros.tap[kept],
            nonzeros.weight[kept],
            nonzeros.lowest,
            nonzeros.highest,
        )

    def _packed_plane(self, tiling: Tiling) -> int | None:
        if not tiling.packed:
            return None
        vector = 4 * self.work.lanes
        reach = max(int(self.offsets.max()), 0) - min(int(self.offsets.min()), 0)
        return (tiling.tile + -(-reach // vector)) * vector

    def _sparse(self, tiling: Tiling, nonzeros: Nonzeros, first: int) -> None:
        packed = self._packed_plane(tiling)
        table = sparse_table(nonzeros, tiling.blocks, self.source.plane_bytes, packed)
        self._step(tiling, table, nonzeros.rows, first, 1)

    def _dense(self, tiling: Tiling, rows: int) -> None:
        weight = self.layer.weight[:rows]
        table = dense_table(
            weight.reshape(rows, weight.shape[1], -1),
            self.taps,
            self.offsets,
            tiling.group,
            tiling.blocks,
            self.source.plane_bytes,
            self._packed_plane(tiling),
        )
        self._step(tiling, table, rows, 0, tiling.group)

    def _step(
        self, tiling: Tiling, table: SparseTable | DenseTable, rows: int, first: int, group: int
    ) -> None:
        from strzoo.engine.assembly import bounds_of

        work, target = self.work, self.target
        vectors = work.vectors(target)
        tiles, wide, wide_tiles = tile_count(vectors, tiling.tile)
        packed = self._packed_plane(tiling)
        bounds, low, high = bounds_of(self.layer.bounds)
        masked = target.root.clean
        partial = rows * wide * work.lanes * 4 if tiling.blocks > 1 else 0
        largest = int(np.diff(table.block_planes).max())
        work.scratch = max(work.scratch, partial + (packed or 0) * largest + 4096)
        skipped = first * target.plane_bytes
        kernel = ConvolutionKernel(
            work.lanes,
            wide,
            group,
            tiling.blocks > 1,
            tiling.packed,
            self.residual is not None,
            masked,
            bounds,
        )
        work.add(
            self.layer.name,
            kernel,
            {
                "source": self.source.address,
                "source_plane": self.source.plane_bytes,
                "target": target.address + skipped,
                "target_plane": target.plane_bytes,
                "residual": self.residual.address + skipped if self.residual else 0,
                "residual_plane": self.residual.plane_bytes if self.residual else 0,
                "vectors": vectors,
                "tiles": tiles,
                "wide_tiles": wide_tiles,
                "rows": rows,
                "parts": len(table.part_rows) - 1,
                "part_rows": work.constants.add(table.part_rows),
                "blocks": tiling.blocks,
                "ends": work.constants.add(table.ends),
                "entries": work.constants.add(table.entries, spare=64),
                "offsets": 0,
                "bias": work.constants.add(self.layer.bias[first : first + rows].astype("f4")),
                "mask": work.mask(target) if masked else 0,
                "block_planes": work.constants.add(table.block_planes),
                "packed_plane": packed or 0,
                "reach": min(int(self.offsets.min()), 0),
                "slab": -(-partial // 64) * 64,
                "low": low,
                "high": high,
            },
        )

    def _depthwise(self) -> None:
        from strzoo.engine.assembly import bounds_of

        work, layer, target = self.work, self.layer, self.target
        plane = self.source.plane_bytes
        offsets = np.asarray(self.taps.phase) * plane + self.offsets
        stride, rows = work.plane_walk(layer.name, self.source, target)
        bounds, low, high = bounds_of(layer.bounds)
        masked = target.root.clean
        work.chosen[layer.name] = "depthwise"
        work.add(
            layer.name,
            DepthwiseKernel(work.lanes, len(offsets), work.images, stride, masked, bounds),
            rows
            | {
                "source": self.source.address,
                "source_plane": plane * len(self.taps.phases),
                "target": target.address,
                "target_plane": target.plane_bytes,
                "planes": target.channels,
                "multiplier": len(layer.weight) // layer.groups,
                "offsets": work.constants.add(offsets.astype(np.int32)),
                "weights": work.constants.add(layer.weight.reshape(len(layer.weight), -1)),
                "bias": work.constants.add(layer.bias.astype(np.float32)),
                "mask": work.mask(target) if masked else 0,
                "low": low,
                "high": high,
            },
        )
