"""Kernels that slide a small window over each plane by itself: depthwise convolution and pools.

With a stride of 1 they go tile by tile, with what the window of a tile reads copied to scratch;
with a stride of 2 plane by plane, row by row, over a copy of the whole line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import F32, KERNEL, Emitter, number
from strzoo.engine.emission.finishing import bounded, masked_all
from strzoo.engine.emission.lines import TiledPlanes, TilePacker, gather_line, scatter_line
from strzoo.engine.emission.moving import clear_line, take_pixels
from strzoo.engine.emission.tiles import over_my_planes, over_my_tiles, tiled_field

UNROLLED = 4  # vectors at once: enough independent sums to keep the multipliers busy

WINDOW_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",
    "source_tile",
    "source_vectors",
    "target",
    "target_plane",
    "target_tile",
    "target_vectors",
    "tile",  # vectors of a tile of the target
    "from_tile",  # and of the source
    "tiles",
    "planes",  # output channels
    "offsets",  # constants, i32 per tap: bytes from a pixel
    "mask",
    "first",  # stride 1: vectors from a tile's start to that of what its window reads
    "places",  # scratch, stride 1: where the vectors are that are packed
    "line",  # scratch: the packed vectors, or the line's first pixel
    "result",  # scratch, stride 2: the line of results
    "before",  # stride 2: bytes around the line
    "after",
    "rows",  # stride 2: of the target
    "row_vectors",
    "source_row",  # bytes from one output row's first pixel to the next one's, in the source
    "target_row",
    "fill",
)
Compute = Callable[[ir.Value, ir.Value, int], list[ir.Value]]


@dataclass(frozen=True)
class Walk:
    """How a window kernel goes: `packed` vectors are what a tile needs (stride 1) of each of the
    `phases` that a channel of the source was split into."""

    lanes: int
    images: int
    stride: int = 1
    packed: int = 0
    phases: int = 1
    masked: bool = False

    @property
    def name(self) -> str:
        shape = f"{self.lanes}_{self.images}_{self.stride}_{self.packed}_{self.phases}"
        return shape + "m" * self.masked


class _Walker:
    """Calls `compute(address, place in the target's line, vectors)` for all that is this
    thread's and stores what it returns. `begin(plane)` comes before each plane of a tile."""

    def __init__(self, e: Emitter, walk: Walk, multiplier: ir.Value | None = None) -> None:
        self.e, self.walk, self.multiplier = e, walk, multiplier
        self.source = TiledPlanes(
            e.at(e.arena, e.field("source")),
            e.field("source_plane"),
            e.field("source_tile"),
            e.field("from_tile"),
            e.field("source_vectors"),
        )

    def go(self, begin: Callable[[ir.Value], None], compute: Compute) -> None:
        if self.walk.stride == 1:
            self._over_tiles(begin, compute)
        else:
            self._over_planes(begin, compute)
        self.e.finish()

    def _channel(self, plane: ir.Value) -> ir.Value:
        return self.e.build.udiv(plane, self.multiplier) if self.multiplier else plane

    def _over_tiles(self, begin: Callable[[ir.Value], None], compute: Compute) -> None:
        e, step = self.e, 4 * self.e.lanes
        table, line = (e.at(e.scratch, e.field(name)) for name in ("places", "line"))
        packer = TilePacker(e, self.source, self.walk.packed, e.field("first"), table)
        fill = e.splat(e.real_field("fill"))
        start = e.at(line, e.mul(e.build.neg(e.field("first")), step))
        with over_my_tiles(e, aim=packer.aim) as (tile, plane, count):
            phases = self.walk.phases
            packer.pack(number(phases), e.mul(self._channel(plane), phases), line, fill)
            begin(plane)
            target = tiled_field(e, "target", tile, plane)
            position = e.mul(e.mul(tile, e.field("tile")), step)

            def work(at: ir.Value, width: int) -> None:
                values = compute(e.at(start, at), e.add(position, at), width)
                for j, value in enumerate(values):
                    e.store(value, e.at(target, at), step * j)

            over_vectors(e, count, work)

    def _over_planes(self, begin: Callable[[ir.Value], None], compute: Compute) -> None:
        e, step = self.e, 4 * self.e.lanes
        line, result = (e.at(e.scratch, e.field(name)) for name in ("line", "result"))
        fill = e.splat(e.real_field("fill"))
        target = TiledPlanes(
            e.at(e.arena, e.field("target")),
            e.field("target_plane"),
            e.field("target_tile"),
            e.field("tile"),
            e.field("target_vectors"),
        )
        # Rows that end on a vector leave the gaps between them as they are.
        clear_line(e, result, e.mul(e.field("target_vectors"), step), e.constant(0.0))
        with over_my_planes(e) as plane:
            channel = self._channel(plane)
            gather_line(e, self.source, channel, line, e.field("before"), e.field("after"), fill)
            begin(plane)
            with e.loop(0, e.field("rows")) as row:
                start = e.at(line, e.mul(row, e.field("source_row")))
                place = e.mul(row, e.field("target_row"))

                def work(at: ir.Value, width: int) -> None:
                    there = e.at(start, e.mul(at, self.walk.stride))
                    values = compute(there, e.add(place, at), width)
                    # What a row writes past its end, the next one writes again.
                    for j, value in enumerate(values):
                        e.store(value, e.at(result, e.add(place, at)), step * j)

                over_vectors(e, e.field("row_vectors"), work)
            scatter_line(e, target, plane, result)

    def load(self, base: ir.Value, count: int) -> list[ir.Value]:
        """`count` vectors of pixels, next to each other or every second one."""
        e, walk = self.e, self.walk
        step = 4 * e.lanes * walk.stride
        return [
            take_pixels(e, base, step * j, e.lanes, walk.images, walk.stride) for j in range(count)
        ]

    def mask(self, values: list[ir.Value], place: ir.Value) -> list[ir.Value]:
        if not self.walk.masked:
            return values
        e = self.e
        return masked_all(e, values, e.at(e.constants, e.add(e.field("mask"), place)))


DEPTHWISE_FIELDS = (
    *WINDOW_FIELDS,
    "multiplier",  # output channels of one input channel
    "weights",  # constants, fp32 [planes, taps]
    "bias",
    "low",
    "high",
)


@dataclass(frozen=True)
class DepthwiseKernel:
    """A convolution whose output channels read one input channel each; `taps` of the window."""

    walk: Walk
    taps: int
    bounds: str = "none"

    fields = DEPTHWISE_FIELDS

    @property
    def name(self) -> str:
        return f"depthwise_{self.walk.name}_{self.taps}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.walk.lanes, DEPTHWISE_FIELDS)
        walker = _Walker(e, self.walk, e.field("multiplier"))
        offsets = e.at(e.constants, e.field("offsets"))
        places = [e.load_i32(offsets, 4 * tap) for tap in range(self.taps)]
        low, high = e.real_field("low"), e.real_field("high")
        factors: list[ir.Value] = []
        bias: list[ir.Value] = []

        def begin(plane: ir.Value) -> None:
            weights = e.at(e.constants, e.add(e.field("weights"), e.mul(plane, 4 * self.taps)))
            factors[:] = [e.splat(e.load(weights, F32, 4 * tap)) for tap in range(self.taps)]
            bias[:] = [e.splat(e.load(e.at(e.constants, e.field("bias")), F32, e.mul(plane, 4)))]

        def compute(base: ir.Value, place: ir.Value, count: int) -> list[ir.Value]:
            sums = bias * count
            for factor, offset in zip(factors, places, strict=True):
                loaded = walker.load(e.at(base, offset), count)
                sums = [e.fma(factor, a, b) for a, b in zip(loaded, sums, strict=True)]
            return walker.mask(bounded(e, sums, self.bounds, low, high), place)

        walker.go(begin, compute)
        return function


POOL_FIELDS = (
    *WINDOW_FIELDS,
    "taps",
    "scales",  # constants, fp32 per pixel: 1 / the number averaged; 0 where there is no pixel
)


@dataclass(frozen=True)
class PoolKernel:
    """The largest ("max") or the mean ("mean") of a window."""

    walk: Walk
    kind: str

    fields = POOL_FIELDS

    @property
    def name(self) -> str:
        return f"pool_{self.walk.name}_{self.kind}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.walk.lanes, POOL_FIELDS)
        walker = _Walker(e, self.walk)
        offsets = e.at(e.constants, e.field("offsets"))
        taps = e.field("taps")

        def compute(base: ir.Value, place: ir.Value, count: int) -> list[ir.Value]:
            initial = walker.load(e.at(base, e.load_i32(offsets)), count)
            with e.carrying(1, taps, initial) as (tap, values, following):
                there = e.at(base, e.load_i32(offsets, e.mul(tap, 4)))
                merge = e.largest if self.kind == "max" else e.build.fadd
                loaded = walker.load(there, count)
                following += [merge(a, b) for a, b in zip(values, loaded, strict=True)]
            if self.kind == "mean":
                scales = e.at(e.constants, e.add(e.field("scales"), place))
                following = [
                    e.build.fmul(value, e.load_vector(scales, 4 * e.lanes * j))
                    for j, value in enumerate(following)
                ]
            return walker.mask(following, place)

        walker.go(lambda plane: None, compute)
        return function


def over_vectors(e: Emitter, vectors: ir.Value, compute: Callable[[ir.Value, int], None]) -> None:
    """compute(byte offset, count) over all vectors of a line, several at once, then the rest."""
    step = 4 * e.lanes
    whole = e.mul(e.build.udiv(vectors, number(UNROLLED)), UNROLLED * step)
    with e.loop(0, whole, UNROLLED * step) as place:
        compute(place, UNROLLED)
    with e.loop(whole, e.mul(vectors, step), step) as place:
        compute(place, 1)
