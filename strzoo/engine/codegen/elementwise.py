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
    plane_extent,
    tiled,
    tiled_field,
)

TWO = ("add", "sub", "mul", "div")  # kinds of kernels that read two buffers
UNROLLED = 4  # vectors at once


@dataclass(frozen=True)
class ElementwiseKernel:
    """What distinguishes one compiled kernel from another.

    Args:
        lanes: floats of a vector; for features, the images of a group.
        kind: "add", "sub", "mul" or "div" (two buffers), "affine" (scale * x + shift per plane),
            "prelu" (scale * x per plane where x is negative), or "clamp" alone.
        masked: whether places that are no pixels must be zero.
        bounds: of the results.
        per_plane: images of a group, if the second buffer has one value for each plane and image;
            0 if it has as many as the first.
    """

    lanes: int = op.between(*op.LANES)
    kind: str = op.one_of(*TWO, "affine", "prelu", "clamp")
    masked: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")
    per_plane: int = op.between(0, op.LANES[1], default=0)

    def fits(self, lanes: int, images: int) -> bool:
        shared = self.per_plane in (0, images) and not self.lanes % max(self.per_plane, 1)
        return self.lanes in (lanes, images) and shared

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def other(v: op.Values) -> int:
            if self.kind not in TWO:
                return 0
            if self.per_plane:
                return (v["planes"] - 1) * v["other_plane"] + 4 * self.per_plane
            return plane_extent(self.lanes, "other")(v)

        affine, scaled = self.kind == "affine", self.kind in ("affine", "prelu")
        return (
            *op.HEAD,
            *TILE_WORK,
            *tiled("source", plane_extent(self.lanes, "source")),
            *tiled("other", other),
            *tiled("target", plane_extent(self.lanes, "target", written=True)),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            op.Count("planes"),
            op.Table("scales", "<f4", lambda v: v["planes"] * scaled),
            op.Table("shifts", "<f4", lambda v: v["planes"] * affine),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"] * self.masked),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        shared = f"_{self.per_plane}" * (self.per_plane > 0)
        return f"map_{self.lanes}_{self.kind}_{'m' * self.masked}_{self.bounds}{shared}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        low, high = e.real_field("low"), e.real_field("high")
        with over_my_tiles(e) as (tile, plane, vectors):
            source, other, target = (
                tiled_field(e, name, tile, plane) for name in ("source", "other", "target")
            )
            position = e.mul(e.mul(tile, e.field("tile")), 4 * e.lanes)
            scale = shift = shared = None
            if self.kind in ("affine", "prelu"):
                scale = self._plane_value(e, "scales", plane)
            if self.kind == "affine":
                shift = self._plane_value(e, "shifts", plane)
            if self.per_plane:
                shared = self._shared(e, plane)

            def compute(place: ir.Value, count: int) -> None:
                step = 4 * e.lanes
                values = [e.load_vector(e.at(source, place), step * j) for j in range(count)]
                if self.kind in TWO:
                    values = [
                        self._both(e, value, shared or e.load_vector(e.at(other, place), step * j))
                        for j, value in enumerate(values)
                    ]
                if self.kind == "prelu":
                    zero = e.constant(0.0)
                    values = [
                        e.build.select(
                            e.build.fcmp_ordered(">", v, zero), v, e.build.fmul(v, scale)
                        )
                        for v in values
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

    def _both(self, e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
        rules = {"add": e.build.fadd, "sub": e.build.fsub, "mul": e.build.fmul, "div": e.build.fdiv}
        return rules[self.kind](a, b)

    def _plane_value(self, e: Emitter, name: str, plane: ir.Value) -> ir.Value:
        return e.splat(e.load(e.base(name), F32, e.add(e.field(name), e.mul(plane, 4))))

    def _shared(self, e: Emitter, plane: ir.Value) -> ir.Value:
        """The second buffer's values for the images of the group, repeated for every pixel."""
        place = e.add(e.field("other"), e.mul(plane, e.field("other_plane")))
        if self.per_plane == 1:
            return e.splat(e.load(e.base("other"), F32, place))
        values = e.load_vector(e.base("other"), place, self.per_plane)
        repeated = [lane % self.per_plane for lane in range(e.lanes)]
        mask = ir.Constant(ir.VectorType(I32, e.lanes), repeated)
        return e.build.shuffle_vector(values, ir.Constant(values.type, ir.Undefined), mask)


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
