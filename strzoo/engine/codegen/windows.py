"""Kernels that slide a small window over each plane by itself: depthwise convolution and pools.

They work tile by tile. What the windows of a tile read is first copied to scratch memory, for a few
planes at once. Then every tap of an output is an aligned vector there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import I16, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import bounded, masked_all
from strzoo.engine.codegen.patches import IN_PLACE, PatchForm, PatchPacker
from strzoo.engine.codegen.tiles import (
    PIECES,
    TILE_WORK,
    TILES,
    share_of_tiles,
    tiled,
    tiled_extent,
    tiled_field,
)

UNROLLED = 4  # vectors at once: enough independent sums to keep the multipliers busy
PLANES = 8  # whose patches are copied together
TAPS = (1, 25)  # of a depthwise kernel; its code is unrolled

Compute = Callable[[ir.Value, list[int], ir.Value], list[ir.Value]]


@dataclass(frozen=True)
class Walk:
    """How a window kernel walks over a buffer.

    Args:
        lanes: floats of a vector.
        tile, last: vectors of a tile, and of the last one.
        patch: what the window of a tile reads of a plane.
        phases: planes into which a channel of the source is split.
        masked: whether places that are no pixels must be zero.
        fixed: whether the numbers are 16-bit fixed point, twice as many in a vector.
        quads: whether a float stands for a word of four numbers of 8 bits.
    """

    lanes: int = op.between(*op.LANES)
    tile: int = op.between(*op.TILE)
    last: int = op.between(*op.TILE)
    patch: PatchForm = IN_PLACE
    phases: int = op.between(1, 1 << 10, default=1)
    masked: bool = False
    fixed: bool = False
    quads: bool = False

    @property
    def name(self) -> str:
        shape = f"{self.lanes}x{self.tile}_{self.last}_{self.patch.name}_{self.phases}"
        return shape + "m" * self.masked + "q" * self.fixed + "u" * self.quads

    def fits(self, lanes: int, images: int) -> bool:
        """Whether the walk is one over vectors of `lanes` floats, `images` of which are a pixel."""
        width = lanes * (2 if self.fixed else 1)
        patches = self.patch.size > 0 and self.patch.fits(width, images)
        whole = not self.quads or (images == 1 and not self.fixed)
        return self.lanes == lanes and self.last <= self.tile and patches and whole

    def operands(self, count_taps: op.Size, *, multiplied: bool = False) -> tuple[op.Operand, ...]:
        """Those of every window kernel, whose windows have `count_taps` taps. `multiplied` as in
        `DepthwiseKernel`."""
        vector = 4 * self.lanes
        channel = vector * self.patch.size * self.phases  # bytes of the patches of a channel
        together = 1 if multiplied else PLANES

        def source(v: op.Values) -> int:
            channels = v["planes"]
            if multiplied:
                channels = (channels - 1) // v["multiplier"] + 1
            return self.patch.read_extent(v, self.lanes, channels * self.phases)

        def slab(v: op.Values) -> int:
            written = self.patch.written_extent(v, self.lanes, together * self.phases)
            outputs = 1 + max(self.patch.place(output) for output in range(self.tile))
            taps = int(v.table("offsets").max(initial=0)) + vector * outputs
            return max(written, (together - 1) * channel + taps)

        return (
            *op.HEAD,
            *TILE_WORK,
            op.Place("source", op.ARENA, source),
            op.Stride("source_plane"),
            *tiled("target", self.extent),
            op.Count("target_vectors", lambda v: (v["tiles"] - 1) * self.tile + self.last),
            op.Count("tile", lambda v: self.tile),
            TILES,
            *PIECES,
            op.Count("planes"),  # output channels
            # For each tap, bytes from an output's place in the patches of a channel.
            op.Indices("offsets", "<i4", count_taps, unit=4),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"] * self.masked),
            op.Place("slab", op.SCRATCH, slab),  # the patches
            *self.patch.operands(),
            op.Real("fill"),
        )

    def extent(self, v: op.Values) -> int:
        """Bytes that the kernel writes from the place target on."""
        return tiled_extent(v, "target", v["planes"], 4 * self.lanes * self.tile, written=True)


class _Walker:
    """Calls `compute(address of the channel's patches, places of some outputs in it, their place
    in the plane)` for what is given and stores what it returns. `begin(plane)` is called
    before each plane of a tile. With a `multiplier`, that many planes read one channel."""

    def __init__(self, e: Emitter, walk: Walk, multiplier: ir.Value | None = None) -> None:
        self.e, self.walk, self.multiplier = e, walk, multiplier

    def go(self, begin: Callable[[ir.Value], None], compute: Compute) -> None:
        e, walk = self.e, self.walk
        packer = PatchPacker(e, walk.patch)
        filling = e.real_field("fill")
        fill = e.splat(e.build.fptosi(filling, I16) if e.fixed else filling)
        patches = e.address("slab")
        size = 4 * walk.lanes * walk.patch.size * walk.phases
        final = e.build.sub(e.field("tiles"), number(1))
        with share_of_tiles(e) as (tile, low, high):
            packer.aim(tile)
            # Planes that read the same channel are rare, so each copies what it reads.
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
        return masked_all(e, values, e.at(e.base("mask"), e.add(e.field("mask"), place)))


@dataclass(frozen=True)
class DepthwiseKernel:
    """A convolution whose output channels read one input channel each.

    Args:
        walk: over the output.
        taps: of the window.
        multiplied: whether several output channels read the same input channel.
        bounds: of the results; in fixed point, a clamp has bounds of each plane.
    """

    walk: Walk
    taps: int = op.between(*TAPS)
    multiplied: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")

    def fits(self, lanes: int, images: int) -> bool:
        return self.walk.fits(lanes, images) and not self.walk.quads

    @property
    def _limited(self) -> bool:
        return self.walk.fixed and self.bounds == "clamp"

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        item = "<i2" if self.walk.fixed else "<f4"
        return (
            *self.walk.operands(lambda v: self.taps, multiplied=self.multiplied),
            op.Count("multiplier"),  # output channels of one input channel
            op.Table("weights", item, lambda v: v["planes"] * self.taps),
            op.Table("bias", item, lambda v: v["planes"]),
            # The least and the largest result of each plane.
            op.Table("row_bounds", "<i2", lambda v: 2 * v["planes"] * self._limited),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        return f"depthwise_{self.walk.name}_{self.taps}{'x' * self.multiplied}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.walk.lanes, self, fixed=self.walk.fixed)
        item = 2 if e.fixed else 4
        walker = _Walker(e, self.walk, e.field("multiplier") if self.multiplied else None)
        offsets = e.address("offsets")
        taps = [e.load_i32(offsets, 4 * tap) for tap in range(self.taps)]
        limits = [e.real_field("low"), e.real_field("high")]
        factors: list[ir.Value] = []
        bias: list[ir.Value] = []

        def number(name: str, index: ir.Value, skipped: int = 0) -> ir.Value:
            place = e.add(e.mul(index, item), item * skipped)
            return e.load(e.at(e.base(name), e.field(name)), e.element, place, align=item)

        def begin(plane: ir.Value) -> None:
            first = e.mul(plane, self.taps)
            factors[:] = [e.splat(number("weights", first, tap)) for tap in range(self.taps)]
            bias[:] = [e.splat(number("bias", plane))]
            if self._limited:
                limits[:] = [number("row_bounds", e.mul(plane, 2), k) for k in (0, 1)]

        def compute(slab: ir.Value, places: list[int], place: ir.Value) -> list[ir.Value]:
            sums = bias * len(places)
            for factor, offset in zip(factors, taps, strict=True):
                there = e.at(slab, offset)
                loaded = [e.load_vector(there, at) for at in places]
                sums = [e.multiply_add(factor, a, b) for a, b in zip(loaded, sums, strict=True)]
            return walker.mask(bounded(e, sums, self.bounds, *limits), place)

        walker.go(begin, compute)
        return function


@dataclass(frozen=True)
class PoolKernel:
    """The largest number of each window, or (not in fixed point) the mean of those that count.

    Args:
        walk: over the output.
        kind: "max" or "mean".
    """

    walk: Walk
    kind: str = op.one_of("max", "mean")

    def fits(self, lanes: int, images: int) -> bool:
        known = self.kind == "max" or not (self.walk.fixed or self.walk.quads)
        return self.walk.fits(lanes, images) and known

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        mean = self.kind == "mean"
        return (
            *self.walk.operands(lambda v: v["taps"]),
            op.Count("taps"),
            # 1 / the number averaged, for each float of a plane; 0 where there is no pixel.
            op.Table("scales", "<f4", lambda v: self.walk.lanes * v["target_vectors"] * mean),
        )

    @property
    def name(self) -> str:
        return f"pool_{self.walk.name}_{self.kind}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.walk.lanes, self, fixed=self.walk.fixed)
        walker = _Walker(e, self.walk)
        offsets, taps = e.address("offsets"), e.field("taps")

        def load(slab: ir.Value, places: list[int], tap: ir.Value) -> list[ir.Value]:
            there = e.at(slab, e.load_i32(offsets, e.mul(tap, 4)))
            return [e.load_vector(there, at) for at in places]

        def compute(slab: ir.Value, places: list[int], place: ir.Value) -> list[ir.Value]:
            merge = e.largest if self.kind == "max" else e.build.fadd
            if self.walk.quads:
                merge = e.largest_bytes
            with e.carrying(1, taps, load(slab, places, number(0))) as (tap, values, following):
                loaded = load(slab, places, tap)
                following += [merge(a, b) for a, b in zip(values, loaded, strict=True)]
            if self.kind == "mean":
                scales = e.at(e.base("scales"), e.add(e.field("scales"), place))
                following = [
                    e.build.fmul(value, e.load_vector(scales, 4 * e.lanes * j))
                    for j, value in enumerate(following)
                ]
            return walker.mask(following, place)

        walker.go(lambda plane: None, compute)
        return function
