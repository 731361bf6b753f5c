"""Kernels that slide a small window over each plane by itself: depthwise convolution and pools.

They go tile by tile; what the windows of a tile read is first copied to scratch, for a few planes
at once. Then every tap of an output is a vector that lies there aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen.builder import F32, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import bounded, masked_all
from strzoo.engine.codegen.patches import PatchForm, PatchPacker
from strzoo.engine.codegen.tiles import share_of_tiles, tiled_field

UNROLLED = 4  # vectors at once: enough independent sums to keep the multipliers busy
PLANES = 8  # whose patches are copied together

WINDOW_FIELDS = (
    "kernel",
    "sync",
    "source",
    "source_plane",
    "target",
    "target_plane",
    "target_tile",
    "target_vectors",
    "tile",  # vectors of a tile
    "tiles",
    "piece_tiles",
    "pitch",
    "planes",  # output channels
    "offsets",  # constants, i32 per tap: bytes from an output's place in the patches of a channel
    "mask",
    "slab",  # scratch: where the patches are
    "copy_ends",  # constants: how they are filled
    "copies",
    "fill",
)
Compute = Callable[[ir.Value, list[int], ir.Value], list[ir.Value]]


@dataclass(frozen=True)
class Walk:
    """How a window kernel goes: tiles of `tile` vectors, `last` in the last one, and the patches
    of each of the `phases` that a channel of the source was split into."""

    lanes: int
    tile: int
    last: int
    patch: PatchForm
    phases: int = 1
    masked: bool = False

    @property
    def name(self) -> str:
        shape = f"{self.lanes}x{self.tile}_{self.last}_{self.patch.name}_{self.phases}"
        return shape + "m" * self.masked


class _Walker:
    """Calls `compute(address of the channel's patches, places of some outputs in it, their place
    in the plane)` for all that is this thread's and stores what it returns. `begin(plane)` comes
    before each plane of a tile. With a `multiplier`, so many planes read one channel."""

    def __init__(self, e: Emitter, walk: Walk, multiplier: ir.Value | None = None) -> None:
        self.e, self.walk, self.multiplier = e, walk, multiplier

    def go(self, begin: Callable[[ir.Value], None], compute: Compute) -> None:
        e, walk = self.e, self.walk
        source = e.at(e.arena, e.field("source"))
        tables = (e.at(e.constants, e.field(name)) for name in ("copy_ends", "copies"))
        packer = PatchPacker(e, walk.patch, source, e.field("source_plane"), *tables)
        patches, fill = e.at(e.scratch, e.field("slab")), e.splat(e.real_field("fill"))
        size = 4 * walk.lanes * walk.patch.size * walk.phases
        final = e.build.sub(e.field("tiles"), number(1))
        with share_of_tiles(e) as (tile, low, high):
            packer.aim(tile)
            # Planes that read the same channel are rare: each copies what it reads.
            together = PLANES if self.multiplier is None else 1
            with e.loop(low, high, together) as first:
                last = e.smallest_integer(e.add(first, together), high)
                channel = first if self.multiplier is None else e.build.udiv(first, self.multiplier)
                phases, count = walk.phases, e.build.sub(last, first)
                packer.pack(e.mul(count, phases), e.mul(channel, phases), patches, fill)
                with e.loop(first, last) as plane:
                    begin(plane)
                    slab = e.at(patches, e.mul(e.build.sub(plane, first), size))
                    if walk.last == walk.tile:
                        self._plane(tile, plane, slab, walk.tile, compute)
                    else:
                        e.either(
                            e.build.icmp_signed("<", tile, final),
                            lambda: self._plane(tile, plane, slab, walk.tile, compute),
                            lambda: self._plane(tile, plane, slab, walk.last, compute),
                        )
        e.finish()

    def _plane(
        self, tile: ir.Value, plane: ir.Value, slab: ir.Value, size: int, compute: Compute
    ) -> None:
        e, step = self.e, 4 * self.e.lanes
        target = tiled_field(e, "target", tile, plane)
        position = e.mul(e.mul(tile, e.field("tile")), step)
        for first in range(0, size, UNROLLED):
            outputs = range(first, min(first + UNROLLED, size))
            places = [step * self.walk.patch.place(output) for output in outputs]
            values = compute(slab, places, e.add(position, step * first))
            for output, value in zip(outputs, values, strict=True):
                e.store(value, target, step * output)

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
    """A convolution whose output channels read one input channel each; `taps` of the window.
    `multiplied`: several output channels read the same one."""

    walk: Walk
    taps: int
    multiplied: bool = False
    bounds: str = "none"

    fields = DEPTHWISE_FIELDS

    @property
    def name(self) -> str:
        return f"depthwise_{self.walk.name}_{self.taps}{'x' * self.multiplied}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.walk.lanes, DEPTHWISE_FIELDS)
        walker = _Walker(e, self.walk, e.field("multiplier") if self.multiplied else None)
        offsets = e.at(e.constants, e.field("offsets"))
        taps = [e.load_i32(offsets, 4 * tap) for tap in range(self.taps)]
        low, high = e.real_field("low"), e.real_field("high")
        factors: list[ir.Value] = []
        bias: list[ir.Value] = []

        def begin(plane: ir.Value) -> None:
            weights = e.at(e.constants, e.add(e.field("weights"), e.mul(plane, 4 * self.taps)))
            factors[:] = [e.splat(e.load(weights, F32, 4 * tap)) for tap in range(self.taps)]
            bias[:] = [e.splat(e.load(e.at(e.constants, e.field("bias")), F32, e.mul(plane, 4)))]

        def compute(slab: ir.Value, places: list[int], place: ir.Value) -> list[ir.Value]:
            sums = bias * len(places)
            for factor, offset in zip(factors, taps, strict=True):
                there = e.at(slab, offset)
                loaded = [e.load_vector(there, at) for at in places]
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
    """`kind`: "max", or "mean" over what counts."""

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
        offsets, taps = e.at(e.constants, e.field("offsets")), e.field("taps")

        def load(slab: ir.Value, places: list[int], tap: ir.Value) -> list[ir.Value]:
            there = e.at(slab, e.load_i32(offsets, e.mul(tap, 4)))
            return [e.load_vector(there, at) for at in places]

        def compute(slab: ir.Value, places: list[int], place: ir.Value) -> list[ir.Value]:
            merge = e.largest if self.kind == "max" else e.build.fadd
            with e.carrying(1, taps, load(slab, places, number(0))) as (tap, values, following):
                loaded = load(slab, places, tap)
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
