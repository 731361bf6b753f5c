"""The mean of whole planes."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen.builder import KERNEL, Emitter
from strzoo.engine.codegen.finishing import masked
from strzoo.engine.codegen.tiles import over_my_planes, tiled_field

GLOBAL_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",
    "source_tile",
    "tile",
    "tiles",
    "piece_tiles",
    "pitch",
    "target",  # vector: [planes][images of a group]
    "target_vectors",  # of the source's line
    "planes",
    "mask",
    "scale",  # 1 / pixels
)


@dataclass(frozen=True)
class GlobalPoolKernel:
    """The mean of each plane: the pixels are added, vector by vector, then across the lanes."""

    lanes: int
    images: int

    fields = GLOBAL_FIELDS

    @property
    def name(self) -> str:
        return f"global_pool_{self.lanes}_{self.images}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, GLOBAL_FIELDS)
        mask, step = e.at(e.constants, e.field("mask")), 4 * e.lanes
        size, vectors = e.field("tile"), e.field("target_vectors")
        with over_my_planes(e) as plane:
            with e.carrying(0, e.field("tiles"), [e.constant(0.0)]) as (tile, sums, totals):
                source = tiled_field(e, "source", tile, plane)
                first = e.mul(tile, size)
                count = e.smallest_integer(size, e.build.sub(vectors, first))
                with e.carrying(0, count, sums) as (index, values, following):
                    bits = e.load_vector(mask, e.mul(e.add(first, index), step))
                    value = masked(e, e.load_vector(source, e.mul(index, step)), bits)
                    following.append(e.build.fadd(values[0], value))
                totals.append(following[0])
            total, width = totals[0], self.lanes
            while width > self.images:
                width //= 2
                total = e.build.fadd(*(_part(total, half * width, width, e) for half in (0, 1)))
            total = e.build.fmul(total, e.splat(e.real_field("scale"), self.images))
            place = e.mul(plane, 4 * self.images)
            e.store(total, e.at(e.arena, e.add(e.field("target"), place)))
        e.finish()
        return function


def _part(value: ir.Value, first: int, width: int, e: Emitter) -> ir.Value:
    if width == 1:
        return e.build.extract_element(value, ir.Constant(ir.IntType(32), first))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
    return e.build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)
