"""Kernels that slide a small window over each plane by itself: depthwise convolution and pools.

All run flat over a plane, as the convolution does: pixel after pixel, over row ends, whatever the
window; the mask clears what is no pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import F32, KERNEL, Emitter, number
from strzoo.engine.emission.convolution import bounded, masked
from strzoo.engine.emission.moving import take_pixels

UNROLLED = 4  # vectors at once: enough independent sums to keep the multipliers busy

DEPTHWISE_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",  # bytes from one input channel to the next, over its phases
    "target",
    "target_plane",
    "vectors",
    "planes",  # output channels
    "multiplier",  # output channels of one input channel
    "offsets",  # constants, i32 per tap: bytes from a pixel
    "weights",  # constants, fp32 [planes, taps]
    "bias",
    "mask",
    "low",
    "high",
    "rows",
    "source_row",  # bytes from an output row's first pixel to the next one's, in the source
    "target_row",
)


@dataclass(frozen=True)
class DepthwiseKernel:
    """A convolution whose output channels read one input channel each; `taps` of the window.

    With a stride of 2 it goes row by row, and `vectors` are a row's.
    """

    lanes: int
    taps: int
    images: int
    stride: int = 1
    masked: bool = False
    bounds: str = "none"

    fields = DEPTHWISE_FIELDS

    @property
    def name(self) -> str:
        flags = f"{self.images}_{self.stride}{'m' * self.masked}"
        return f"depthwise_{self.lanes}x{self.taps}_{flags}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, DEPTHWISE_FIELDS)
        offsets = e.at(e.constants, e.field("offsets"))
        places = [e.load_i32(offsets, 4 * tap) for tap in range(self.taps)]
        mask = e.at(e.constants, e.field("mask"))
        low, high = e.real_field("low"), e.real_field("high")
        multiplier = e.field("multiplier")
        with _planes(e) as plane:
            channel = e.build.udiv(plane, multiplier)
            source = e.at(e.arena, e.add(e.field("source"), e.mul(channel, e.field("source_plane"))))
            target = e.at(e.arena, e.add(e.field("target"), e.mul(plane, e.field("target_plane"))))
            sources = [e.at(source, place) for place in places]
            weights = e.at(e.constants, e.add(e.field("weights"), e.mul(plane, 4 * self.taps)))
            factors = [e.splat(e.load(weights, F32, 4 * tap)) for tap in range(self.taps)]
            bias = e.load(e.at(e.constants, e.field("bias")), F32, e.mul(plane, 4))

            def compute(start: ir.Value, place: ir.Value, count: int) -> None:
                step = 4 * e.lanes
                sums = [e.splat(bias)] * count
                for factor, base in zip(factors, sources, strict=True):
                    loaded = _load(e, e.at(base, start), count, self.images, self.stride)
                    sums = [e.fma(factor, a, b) for a, b in zip(loaded, sums, strict=True)]
                sums = bounded(e, sums, self.bounds, low, high)
                if self.masked:
                    bits = e.at(mask, place)
                    sums = [
                        masked(e, value, e.load_vector(bits, step * j))
                        for j, value in enumerate(sums)
                    ]
                for j, value in enumerate(sums):
                    e.store(value, e.at(target, place), step * j)

            _over_plane(e, self.stride, compute)
        e.finish()
        return function


POOL_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",
    "target",
    "target_plane",
    "vectors",
    "planes",
    "taps",
    "offsets",  # constants, i32 per tap
    "scales",  # constants, fp32 per pixel: 1 / the number averaged; 0 where there is no pixel
    "mask",
    "rows",
    "source_row",
    "target_row",
)


@dataclass(frozen=True)
class PoolKernel:
    """The largest ("max") or the mean ("mean") of a window; strides as in `DepthwiseKernel`."""

    lanes: int
    kind: str
    images: int
    stride: int = 1
    masked: bool = False

    fields = POOL_FIELDS

    @property
    def name(self) -> str:
        flags = f"{self.images}_{self.stride}{'m' * self.masked}"
        return f"pool_{self.lanes}_{self.kind}_{flags}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, POOL_FIELDS)
        offsets = e.at(e.constants, e.field("offsets"))
        taps = e.field("taps")
        with _planes(e) as plane:
            source = e.at(e.arena, e.add(e.field("source"), e.mul(plane, e.field("source_plane"))))
            target = e.at(e.arena, e.add(e.field("target"), e.mul(plane, e.field("target_plane"))))

            def compute(start: ir.Value, place: ir.Value, count: int) -> None:
                step = 4 * e.lanes
                here = e.at(source, start)
                first = e.at(here, e.load_i32(offsets))
                initial = _load(e, first, count, self.images, self.stride)
                with e.carrying(1, taps, initial) as (tap, values, following):
                    there = e.at(here, e.load_i32(offsets, e.mul(tap, 4)))
                    loaded = _load(e, there, count, self.images, self.stride)
                    merge = e.largest if self.kind == "max" else e.build.fadd
                    following += [merge(a, b) for a, b in zip(values, loaded, strict=True)]
                if self.kind == "mean":
                    scales = e.at(e.constants, e.add(e.field("scales"), place))
                    following = [
                        e.build.fmul(value, e.load_vector(scales, step * j))
                        for j, value in enumerate(following)
                    ]
                if self.masked:
                    bits = e.at(e.constants, e.add(e.field("mask"), place))
                    following = [
                        masked(e, value, e.load_vector(bits, step * j))
                        for j, value in enumerate(following)
                    ]
                for j, value in enumerate(following):
                    e.store(value, e.at(target, place), step * j)

            _over_plane(e, self.stride, compute)
        e.finish()
        return function


GLOBAL_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",
    "target",  # vector: [planes][images of a group]
    "vectors",
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
        mask = e.at(e.constants, e.field("mask"))
        scale, vectors = e.real_field("scale"), e.field("vectors")
        with _planes(e) as plane:
            source = e.at(e.arena, e.add(e.field("source"), e.mul(plane, e.field("source_plane"))))
            with e.carrying(0, vectors, [e.constant(0.0)]) as (index, values, following):
                place = e.mul(index, 4 * e.lanes)
                value = masked(e, e.load_vector(source, place), e.load_vector(mask, place))
                following.append(e.build.fadd(values[0], value))
            total, width = following[0], self.lanes
            while width > self.images:
                width //= 2
                total = e.build.fadd(*(_part(e, total, half * width, width) for half in (0, 1)))
            total = e.build.fmul(total, e.splat(scale, self.images))
            place = e.mul(plane, 4 * self.images)
            e.store(total, e.at(e.arena, e.add(e.field("target"), place)))
        e.finish()
        return function


def _part(e: Emitter, value: ir.Value, first: int, width: int) -> ir.Value:
    if width == 1:
        return e.build.extract_element(value, ir.Constant(ir.IntType(32), first))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
    return e.build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def _planes(e: Emitter) -> AbstractContextManager[ir.Value]:
    """A loop over this thread's share of the planes."""
    planes = e.field("planes")
    start = e.share(planes, e.thread, e.threads)
    return e.loop(start, e.share(planes, e.add(e.thread, 1), e.threads))


def over_vectors(
    e: Emitter, vectors: ir.Value, compute: Callable[[ir.Value, int], None]
) -> None:
    """compute(byte offset, count) over all vectors of a plane, several at once, then the rest."""
    step = 4 * e.lanes
    whole = e.mul(e.build.udiv(vectors, number(UNROLLED)), UNROLLED * step)
    with e.loop(0, whole, UNROLLED * step) as place:
        compute(place, UNROLLED)
    with e.loop(whole, e.mul(vectors, step), step) as place:
        compute(place, 1)


def _load(e: Emitter, base: ir.Value, count: int, images: int, stride: int) -> list[ir.Value]:
    """`count` vectors of pixels, next to each other or every second one."""
    step = 4 * e.lanes * stride
    return [take_pixels(e, base, step * j, e.lanes, images, stride) for j in range(count)]


def _over_plane(
    e: Emitter, stride: int, compute: Callable[[ir.Value, ir.Value, int], None]
) -> None:
    """compute(source offset, target offset, vectors) all over a plane: flat, or row by row."""
    vectors = e.field("vectors")
    if stride == 1:
        over_vectors(e, vectors, lambda place, count: compute(place, place, count))
        return
    source_row, target_row = e.field("source_row"), e.field("target_row")
    with e.loop(0, e.field("rows")) as row:
        start, target = e.mul(row, source_row), e.mul(row, target_row)
        # What a row writes past its end, the next one writes again.
        over_vectors(
            e,
            vectors,
            lambda place, count: compute(
                e.add(start, e.mul(place, stride)), e.add(target, place), count
            ),
        )
