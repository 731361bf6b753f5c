"""The mean of whole planes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I16, I32, KERNEL, Emitter
from strzoo.engine.codegen.finishing import masked
from strzoo.engine.codegen.tiles import (
    PIECES,
    PLANE_WORK,
    TILES,
    over_my_planes,
    plane_extent,
    tiled,
    tiled_field,
)


@dataclass(frozen=True)
class GlobalPoolKernel:
    """The mean of each plane: the pixels are added vector by vector, then across the lanes.

    Args:
        lanes: floats of a vector.
        images: of a group.
        fixed: whether the pixels are 16-bit fixed point, twice as many in a vector, with a scale
            for each plane; of single images.
    """

    lanes: int = op.between(*op.LANES)
    images: int = op.between(*op.LANES)
    fixed: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        alone = images == 1 or not self.fixed
        return (self.lanes, self.images) == (lanes, images) and alone

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        return (
            *op.HEAD,
            *PLANE_WORK,
            *tiled("source", plane_extent(self.lanes, "source")),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Place("target", op.ARENA, lambda v: 4 * self.images * v["planes"]),  # features
            op.Count("target_vectors"),  # of a plane of the source
            op.Count("planes"),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"]),
            op.Table("scales", "<f4", lambda v: v["planes"] * self.fixed),
            op.Real("scale"),  # 1 / pixels
        )

    @property
    def name(self) -> str:
        return f"global_pool_{self.lanes}_{self.images}{'q' * self.fixed}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        mask, step = e.address("mask"), 4 * e.lanes
        size, vectors = e.field("tile"), e.field("target_vectors")
        zero = e.constant(0.0)
        if self.fixed:
            zero = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        with over_my_planes(e) as plane:
            with e.carrying(0, e.field("tiles"), [zero]) as (tile, sums, totals):
                source = tiled_field(e, "source", tile, plane)
                first = e.mul(tile, size)
                count = e.smallest_integer(size, e.build.sub(vectors, first))
                with e.carrying(0, count, sums) as (index, values, following):
                    bits = e.load_vector(mask, e.mul(e.add(first, index), step))
                    place = e.mul(index, step)
                    if self.fixed:
                        kind = ir.VectorType(I16, 2 * self.lanes)
                        value = masked(e, e.load(source, kind, place), bits)
                        following.append(e.build.add(values[0], _sum_of_pairs(e, value)))
                    else:
                        value = masked(e, e.load_vector(source, place), bits)
                        following.append(e.build.fadd(values[0], value))
                totals.append(following[0])
            total, width = totals[0], self.lanes
            if self.fixed:
                total = e.build.sitofp(total, ir.VectorType(F32, self.lanes))
            while width > self.images:
                width //= 2
                halves = (vector_part(e, total, half * width, width) for half in (0, 1))
                total = e.build.fadd(*halves)
            scale = e.real_field("scale")
            if self.fixed:
                scale = e.build.fmul(scale, e.load(e.address("scales"), F32, e.mul(plane, 4)))
            total = e.build.fmul(total, e.splat(scale, self.images))
            place = e.mul(plane, 4 * self.images)
            e.store(total, e.at(e.base("target"), e.add(e.field("target"), place)))
        e.finish()
        return function


def _sum_of_pairs(e: Emitter, value: ir.Value) -> ir.Value:
    """The lower plus the upper half of a vector of 16-bit numbers, each as 32 bits."""
    wide = ir.VectorType(I32, e.lanes)
    halves = []
    for first in (0, e.lanes):
        mask = ir.Constant(wide, list(range(first, first + e.lanes)))
        undefined = ir.Constant(value.type, ir.Undefined)
        halves.append(e.build.sext(e.build.shuffle_vector(value, undefined, mask), wide))
    return e.build.add(*halves)


def vector_part(e: Emitter, value: ir.Value, first: int, width: int) -> ir.Value:
    """The `width` numbers of a vector from number `first` on; a single one is no vector."""
    if width == 1:
        return e.build.extract_element(value, ir.Constant(ir.IntType(32), first))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
    return e.build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)
