"""Kernels that compute value by value: sums of two buffers, scaling, clamps; and the softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I32, KERNEL, Emitter, number, vector_type
from strzoo.engine.codegen.finishing import bounded, masked_all
from strzoo.engine.codegen.tiles import (
    PIECES,
    TILE_WORK,
    TILES,
    over_my_tiles,
    tiled,
    tiled_extent,
    tiled_field,
)

UNROLLED = 4  # vectors at once


@dataclass(frozen=True)
class ElementwiseKernel:
    """What distinguishes one compiled kernel from another.

    Args:
        lanes: floats of a vector; for features, the images of a group.
        kind: "add" (two buffers), "affine" (scale * x + shift per plane), or "clamp" alone.
        masked: whether places that are no pixels must be zero.
        bounds: of the results.
    """

    lanes: int = op.between(*op.LANES)
    kind: str = op.one_of("add", "affine", "clamp")
    masked: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")

    def fits(self, lanes: int, images: int) -> bool:
        return self.lanes in (lanes, images)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def extent(name: str, *, read: bool = True, written: bool = False) -> op.Size:
            def size(v: op.Values) -> int:
                tile = 4 * self.lanes * v["tile"]
                return tiled_extent(v, name, v["planes"], tile, written=written) if read else 0

            return size

        affine = self.kind == "affine"
        return (
            *op.HEAD,
            *TILE_WORK,
            *tiled("source", extent("source")),
            *tiled("other", extent("other", read=self.kind == "add")),
            *tiled("target", extent("target", written=True)),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            op.Count("planes"),
            op.Table("scales", "<f4", lambda v: v["planes"] * affine),
            op.Table("shifts", "<f4", lambda v: v["planes"] * affine),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"] * self.masked),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        return f"map_{self.lanes}_{self.kind}_{'m' * self.masked}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        low, high = e.real_field("low"), e.real_field("high")
        with over_my_tiles(e) as (tile, plane, vectors):
            source, other, target = (
                tiled_field(e, name, tile, plane) for name in ("source", "other", "target")
            )
            position = e.mul(e.mul(tile, e.field("tile")), 4 * e.lanes)
            scale = shift = None
            if self.kind == "affine":
                scale, shift = (
                    e.splat(e.load(e.base(name), F32, e.add(e.field(name), e.mul(plane, 4))))
                    for name in ("scales", "shifts")
                )

            def compute(place: ir.Value, count: int) -> None:
                step = 4 * e.lanes
                values = [e.load_vector(e.at(source, place), step * j) for j in range(count)]
                if self.kind == "add":
                    values = [
                        e.build.fadd(value, e.load_vector(e.at(other, place), step * j))
                        for j, value in enumerate(values)
                    ]
                if self.kind == "affine":
                    values = [e.fma(value, scale, shift) for value in values]
                values = bounded(e, values, self.bounds, low, high)
                if self.masked:
                    bits = e.at(e.base("mask"), e.add(e.field("mask"), e.add(position, place)))
                    values = masked_all(e, values, bits)
                for j, value in enumerate(values):
                    e.store(value, e.at(target, place), step * j)

            _over_vectors(e, vectors, compute)
        e.finish()
        return function


# exp(x) = 2^n * exp(r), |r| <= log(2) / 2, by its Taylor series: the first term left out is below
# 2e-9 of the result.
TERMS = 8
LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693145751953125, 1.4286068203094173e-06


@dataclass(frozen=True)
class SoftmaxKernel:
    """The softmax over the features of each of a group's `images`, as one unit of work."""

    images: int = op.between(*op.LANES)

    def fits(self, lanes: int, images: int) -> bool:
        return self.images == images

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        places = (
            op.Place(name, op.ARENA, lambda v: 4 * self.images * v["features"])
            for name in ("source", "target")
        )
        return (*op.HEAD, *op.work(lambda v: 1, lambda v: 1), *places, op.Count("features"))

    @property
    def name(self) -> str:
        return f"softmax_{self.images}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.images, self)
        features, step = e.field("features"), 4 * self.images
        source, target = (e.address(name) for name in ("source", "target"))
        with e.when(e.build.icmp_signed("<", e.first, e.last)):
            start = [e.load_vector(source)]
            with e.carrying(1, features, start) as (index, tops, following):
                following.append(e.largest(tops[0], e.load_vector(source, e.mul(index, step))))
            top = following[0]
            with e.carrying(0, features, [e.constant(0.0)]) as (index, sums, following):
                place = e.mul(index, step)
                value = self._exp(e, e.build.fsub(e.load_vector(source, place), top))
                e.store(value, target, place)
                following.append(e.build.fadd(sums[0], value))
            total = following[0]
            with e.loop(0, features) as index:
                place = e.mul(index, step)
                e.store(e.build.fdiv(e.load_vector(target, place), total), target, place)
        e.finish()
        return function

    def _exp(self, e: Emitter, x: ir.Value) -> ir.Value:
        build, lanes = e.build, self.images
        x = e.largest(x, e.constant(-87.0))  # below it, the result is practically zero
        integers = I32 if lanes == 1 else ir.VectorType(I32, lanes)

        def whole(value: int) -> ir.Constant:
            return ir.Constant(integers, value if lanes == 1 else [value] * lanes)

        scaled = build.fsub(build.fmul(x, e.constant(LOG2E)), e.constant(0.5))
        power = build.fptosi(scaled, integers)  # towards zero: x is never positive
        n = build.sitofp(power, vector_type(lanes))
        r = e.fma(n, e.constant(-LN2_HIGH), x)
        r = e.fma(n, e.constant(-LN2_LOW), r)
        result: ir.Value = e.constant(1.0)
        for term in range(TERMS, 0, -1):
            result = e.fma(build.fmul(r, e.constant(1.0 / term)), result, e.constant(1.0))
        bits = build.shl(build.add(power, whole(127)), whole(23))
        return build.fmul(result, build.bitcast(bits, vector_type(lanes)))


def _over_vectors(e: Emitter, vectors: ir.Value, compute: Callable[[ir.Value, int], None]) -> None:
    """compute(byte offset, count) over all vectors of a tile, several at once, then the rest."""
    step = 4 * e.lanes
    whole = e.mul(e.build.udiv(vectors, number(UNROLLED)), UNROLLED * step)
    with e.loop(0, whole, UNROLLED * step) as place:
        compute(place, UNROLLED)
    with e.loop(whole, e.mul(vectors, step), step) as place:
        compute(place, 1)
