"""The mean of whole planes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import KERNEL, Emitter
from strzoo.engine.codegen.finishing import masked
from strzoo.engine.codegen.tiles import (
    PIECES,
    PLANE_WORK,
    TILES,
    over_my_planes,
    tiled,
    tiled_extent,
    tiled_field,
)


@dataclass(frozen=True)
class GlobalPoolKernel:
    """The mean of each plane: the pixels are added vector by vector, then across the lanes.

    Args:
        lanes: floats of a vector.
        images: of a group.
    """

    lanes: int = op.between(*op.LANES)
    images: int = op.between(*op.LANES)

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, self.images) == (lanes, images)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def source(v: op.Values) -> int:
            return tiled_extent(v, "source", v["planes"], 4 * self.lanes * v["tile"])

        return (
            *op.HEAD,
            *PLANE_WORK,
            *tiled("source", source),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Place("target", op.ARENA, lambda v: 4 * self.images * v["planes"]),  # features
            op.Count("target_vectors"),  # of a plane of the source
            op.Count("planes"),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"]),
            op.Real("scale"),  # 1 / pixels
        )

    @property
    def name(self) -> str:
        return f"global_pool_{self.lanes}_{self.images}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        mask, step = e.address("mask"), 4 * e.lanes
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
            e.store(total, e.at(e.base("target"), e.add(e.field("target"), place)))
        e.finish()
        return function


def _part(value: ir.Value, first: int, width: int, e: Emitter) -> ir.Value:
    if width == 1:
        return e.build.extract_element(value, ir.Constant(ir.IntType(32), first))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
    return e.build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)
