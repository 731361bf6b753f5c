"""Kernels that only move values: into maps and out of them.

Where a value comes from is in a table that serves all planes, in the order in which values are
written: vector by vector into a map (`PackKernel`), pixel by pixel out of one (`UnpackKernel`).
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.codegen.builder import F32, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.tiles import over_my_planes, over_my_tiles, tiled_field

PACK_FIELDS = (
    "kernel",
    "sync",
    "planes",
    "phases",  # planes of the target for each of the source
    "source",  # arena
    "source_plane",
    "source_image",  # bytes from image to image of the caller's
    "target",
    "target_plane",
    "target_tile",
    "tile",  # vectors of a tile of the target
    "tiles",
    "piece_tiles",
    "pitch",
    "target_vectors",
    "places",  # constants, i32 [phases, floats]: bytes in the source's plane
    "mask",  # constants, [phases, floats]: all ones where there is a pixel
    "fill",
)


@dataclass(frozen=True)
class PackKernel:
    """Planes of a map. `origin`: "arena", or "input", the caller's images [n, C, H, W], of which a
    group that is short of images repeats the last. `masked`: some floats are no pixels, but zeros,
    or with `filled` the row's `fill`."""

    lanes: int
    images: int
    origin: str = "arena"
    masked: bool = False
    filled: bool = False

    fields = PACK_FIELDS

    @property
    def name(self) -> str:
        flags = "m" * self.masked + "f" * self.filled
        return f"fill_{self.lanes}_{self.images}_{self.origin}{flags}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, PACK_FIELDS)
        phases, step = e.field("phases"), 4 * self.lanes
        size, vectors = e.field("tile"), e.field("target_vectors")
        tables = [e.at(e.constants, e.field(name)) for name in ("places", "mask")]
        with over_my_tiles(e) as (tile, plane, count):
            sources = self._sources(e, plane)
            first = e.mul(tile, size)
            with e.loop(0, phases) as phase:
                skipped = e.mul(e.add(e.mul(phase, vectors), first), step)
                places, mask = (e.at(table, skipped) for table in tables)
                there = tiled_field(e, "target", tile, e.add(e.mul(plane, phases), phase))
                with e.loop(0, count) as vector:
                    at = e.mul(vector, step)
                    self._vector(e, sources, e.at(places, at), e.at(mask, at), e.at(there, at))
        e.finish()
        return function

    def _sources(self, e: Emitter, plane: ir.Value) -> list[ir.Value]:
        """Where the plane is of each image."""
        offset = e.mul(plane, e.field("source_plane"))
        if self.origin == "arena":
            place = e.add(e.field("source"), offset)
            return [e.at(e.arena, e.add(place, 4 * image)) for image in range(self.images)]
        last = e.build.sub(e.images, number(1))
        given = [e.smallest_integer(number(image), last) for image in range(self.images)]
        size = e.field("source_image")
        return [e.at(e.input, e.add(offset, e.mul(image, size))) for image in given]

    def _vector(
        self, e: Emitter, sources: list[ir.Value], places: ir.Value, mask: ir.Value, there: ir.Value
    ) -> None:
        # Two floats at a time, as integers: to gather a vector takes longer.
        fill = e.build.zext(e.build.bitcast(e.real_field("fill"), I32), I64)
        fill = e.build.or_(fill, e.build.shl(fill, number(32)))
        for lane in range(0, self.lanes, 2):
            low, high = (
                e.build.zext(e.load(source, I32, e.load_i32(places, 4 * at)), I64)
                for at, source in ((at, sources[at % self.images]) for at in (lane, lane + 1))
            )
            value = e.build.or_(low, e.build.shl(high, number(32)))
            if self.masked:
                bits = e.load(mask, I64, 4 * lane)
                value = e.build.and_(value, bits)
                if self.filled:
                    value = e.build.or_(value, e.build.and_(fill, e.build.not_(bits)))
            e.store(value, there, 4 * lane)


UNPACK_FIELDS = (
    "kernel",
    "sync",
    "planes",
    "source",
    "source_plane",
    "target",
    "target_plane",
    "target_image",  # bytes from image to image of the caller's
    "pixels",
    "places",  # constants, i32 per pixel: bytes in the source's plane
)


@dataclass(frozen=True)
class UnpackKernel:
    """Pixels of planes, one after the other: features, or the caller's results [n, ...]
    (`destination`: "arena" or "output")."""

    lanes: int
    images: int
    destination: str = "arena"

    fields = UNPACK_FIELDS

    @property
    def name(self) -> str:
        return f"take_{self.lanes}_{self.images}_{self.destination}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, UNPACK_FIELDS)
        places = e.at(e.constants, e.field("places"))
        with over_my_planes(e) as plane:
            here = e.add(e.field("source"), e.mul(plane, e.field("source_plane")))
            there = e.mul(plane, e.field("target_plane"))
            source = e.at(e.arena, here)
            if self.destination == "arena":
                target = e.at(e.arena, e.add(e.field("target"), there))
            else:
                target = e.at(e.output, there)
            with e.loop(0, e.field("pixels")) as pixel:
                start = e.at(source, e.load_i32(places, e.mul(pixel, 4)))
                for image in range(self.images):
                    self._move(e, start, target, pixel, image)
        e.finish()
        return function

    def _move(
        self, e: Emitter, start: ir.Value, target: ir.Value, pixel: ir.Value, image: int
    ) -> None:
        if self.destination == "arena":
            place = e.mul(e.add(e.mul(pixel, self.images), image), 4)
            e.store(e.load(start, F32, 4 * image), target, place)
            return
        with e.when(e.build.icmp_signed("<", number(image), e.images)):
            place = e.add(e.mul(e.field("target_image"), image), e.mul(pixel, 4))
            e.store(e.load(start, F32, 4 * image), target, place)
