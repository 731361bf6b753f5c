"""Kernels that only copy values: into blocked buffers (pack) and out of them (unpack).

A table that is the same for all planes says where each value comes from, in the order in which the
values are written: vector by vector (`PackKernel`) or pixel by pixel (`UnpackKernel`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.tiles import (
    PIECES,
    PLANE_WORK,
    TILE_WORK,
    TILES,
    over_my_planes,
    over_my_tiles,
    tiled,
    tiled_extent,
    tiled_field,
)

ROW = 4  # pixels next to each other that are copied at once
_AHEAD = 24  # vectors; images come from a far cache


def row_starts(vectors: int, tile: int, row: int = ROW) -> np.ndarray | None:
    """The vectors of a plane where a row of `row` pixels begins that is copied at once; the last
    row of a tile ends with it. None if a tile has less than a row."""
    starts = []
    for first in range(0, vectors, tile):
        count = min(tile, vectors - first)
        if count < row:
            return None
        starts += [first + min(at, count - row) for at in range(0, count, row)]
    return np.array(starts)


def fetch_ahead(e: Emitter, source: ir.Value, first: ir.Value, count: ir.Value, width: int) -> None:
    """Fetch what a vector some tiles after [first, first + count) is made of: it comes from as many
    rows of the image as it has numbers, `width`, more than the processor follows by itself."""
    last = e.build.sub(e.field("target_vectors"), number(1))
    ahead = e.smallest_integer(e.add(e.add(first, count), _AHEAD), last)
    places = e.at(e.address("places"), e.mul(ahead, 4 * width))
    with e.loop(0, number(width)) as index:
        e.prefetch(e.at(source, e.load_i32(places, e.mul(index, 4))))


def load_row(
    e: Emitter, source: ir.Value, places: ir.Value, lanes: int, stride: int = 1
) -> list[ir.Value]:
    """Four pixels of each lane, as vectors: squares of four lanes and four pixels are transposed.

    Args:
        places: the address of the first pixels' places, in bytes from `source`, one of each lane.
        stride: floats from pixel to pixel, 1 or 2.
    """
    starts = [e.at(source, e.load_i32(places, 4 * lane)) for lane in range(lanes)]
    pixels = [e.load_vector(start, lanes=ROW) for start in starts]
    if stride == 2:  # nothing is read behind the last pixel
        taken = ir.Constant(ir.VectorType(I32, ROW), [0, 2, 5, 7])
        seconds = [e.load_vector(start, 4 * (ROW - 1), lanes=ROW) for start in starts]
        both = zip(pixels, seconds, strict=True)
        pixels = [e.build.shuffle_vector(first, second, taken) for first, second in both]
    # Vector k has the pixels of the lanes k, k + 4, k + 8, ...
    a, b, c, d = (e.joined(pixels[k::ROW]) for k in range(ROW))
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)  # of each square: 0 to 3 of one, 4 to 7 of the other
    firsts, seconds = (
        [_mixed(e, x, y, taken) for taken in (low, high)] for x, y in ((a, b), (c, d))
    )
    return [
        _mixed(e, x, y, taken)
        for x, y in zip(firsts, seconds, strict=True)
        for taken in ((0, 1, 4, 5), (2, 3, 6, 7))
    ]


def _mixed(e: Emitter, x: ir.Value, y: ir.Value, taken: tuple[int, ...]) -> ir.Value:
    """Of each four numbers of x, followed by the four of y at the same place, those taken."""
    lanes = x.type.count
    mask = [
        start + index % ROW + lanes * (index >= ROW)
        for start in range(0, lanes, ROW)
        for index in taken
    ]
    return e.build.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, lanes), mask))


@dataclass(frozen=True)
class PackKernel:
    """Copies pixels into the planes of a buffer.

    Args:
        lanes: floats of a vector.
        images: of a group.
        origin: "arena", or "input", the caller's arrays [n, ...]; a group of fewer images than
            `images` repeats its last one.
        masked: whether some floats are no pixels; they become zero.
        filled: whether they become the operand `fill` instead.
        rows: whether four vectors from a place of `row_starts` on hold, in each lane, four pixels
            that lie next to each other; of one image, with no vector masked and `ROW` at least in
            each tile.
    """

    lanes: int = op.between(*op.LANES)
    images: int = op.between(*op.LANES)
    origin: str = op.one_of(op.ARENA, op.INPUT, default=op.ARENA)
    masked: bool = False
    filled: bool = False
    rows: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        whole = self.images == 1 and not (self.masked or self.filled or self.lanes % ROW)
        return (self.lanes, self.images) == (lanes, images) and (whole or not self.rows)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def source(v: op.Values) -> int:
            places, read = v.table("places"), 4
            if self.rows:
                starts = row_starts(v["target_vectors"], v["tile"])
                if starts is None:
                    raise ValueError(f"a tile of less than {ROW} vectors")
                places = places.reshape(v["phases"], v["target_vectors"], self.lanes)[:, starts]
                read = 4 * ROW
            last = (v["planes"] - 1) * v["source_plane"] + int(places.max()) + read
            return last + 4 * (self.images - 1) * (self.origin == op.ARENA)

        def target(v: op.Values) -> int:
            planes, tile = v["planes"] * v["phases"], 4 * self.lanes * v["tile"]
            return tiled_extent(v, "target", planes, tile, written=True)

        def count_floats(v: op.Values) -> int:
            return v["phases"] * v["target_vectors"] * self.lanes

        return (
            *op.HEAD,
            *TILE_WORK,
            op.Count("planes"),
            op.Count("phases"),  # planes of the target for each of the source
            op.Place("source", self.origin, source),
            op.Stride("source_plane"),
            op.ImageStride("source_image", self.origin),
            *tiled("target", target),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            # For each float of each phase, bytes from the start of the source's plane to its value.
            op.Indices("places", "<i4", count_floats, unit=4),
            op.Table("mask", "<u4", lambda v: count_floats(v) * self.masked),
            op.Real("fill"),
        )

    @property
    def name(self) -> str:
        flags = "m" * self.masked + "f" * self.filled + "r" * self.rows
        return f"fill_{self.lanes}_{self.images}_{self.origin}{flags}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        phases, step = e.field("phases"), 4 * self.lanes
        size, vectors = e.field("tile"), e.field("target_vectors")
        tables = [e.address(name) for name in ("places", "mask")]
        with over_my_tiles(e) as (tile, plane, count):
            sources = self._sources(e, plane)
            first = e.mul(tile, size)
            with e.loop(0, phases) as phase:
                skipped = e.mul(e.add(e.mul(phase, vectors), first), step)
                places, mask = (e.at(table, skipped) for table in tables)
                there = tiled_field(e, "target", tile, e.add(e.mul(plane, phases), phase))
                final = e.build.sub(count, number(ROW))
                if self.origin == op.INPUT and self.images == 1:
                    fetch_ahead(e, sources[0], first, count, self.lanes)
                with e.loop(0, count, ROW if self.rows else 1) as vector:
                    if self.rows:
                        at = e.mul(e.smallest_integer(vector, final), step)
                        self._row(e, sources[0], e.at(places, at), e.at(there, at))
                    else:
                        at = e.mul(vector, step)
                        self._vector(e, sources, e.at(places, at), e.at(mask, at), e.at(there, at))
        e.finish()
        return function

    def _sources(self, e: Emitter, plane: ir.Value) -> list[ir.Value]:
        """The address of the plane in each image."""
        place = e.add(e.field("source"), e.mul(plane, e.field("source_plane")))
        if self.origin == "arena":
            base = e.base("source")
            return [e.at(base, e.add(place, 4 * image)) for image in range(self.images)]
        last = e.build.sub(e.images, number(1))
        given = [e.smallest_integer(number(image), last) for image in range(self.images)]
        size = e.field("source_image")
        return [e.at(e.base("source"), e.add(place, e.mul(image, size))) for image in given]

    def _row(self, e: Emitter, source: ir.Value, places: ir.Value, there: ir.Value) -> None:
        for index, value in enumerate(load_row(e, source, places, self.lanes)):
            e.store(value, there, 4 * self.lanes * index)

    def _vector(
        self, e: Emitter, sources: list[ir.Value], places: ir.Value, mask: ir.Value, there: ir.Value
    ) -> None:
        # Two floats at a time, as integers: gathering a vector takes longer.
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


@dataclass(frozen=True)
class UnpackKernel:
    """Copies the pixels of planes, one after the other.

    Args:
        lanes: floats of a vector.
        images: of a group.
        destination: "arena" for features, or "output", the caller's results [n, ...].
    """

    lanes: int = op.between(*op.LANES)
    images: int = op.between(*op.LANES)
    destination: str = op.one_of(op.ARENA, op.OUTPUT, default=op.ARENA)

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, self.images) == (lanes, images)

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        pixel = 4 * (self.images if self.destination == op.ARENA else 1)

        def source(v: op.Values) -> int:
            last = (v["planes"] - 1) * v["source_plane"] + int(v.table("places").max())
            return last + 4 * self.images

        def target(v: op.Values) -> int:
            plane = pixel * v["pixels"]
            if v["planes"] > 1 and v["target_plane"] != plane:
                raise ValueError(f"planes of {plane} bytes are {v['target_plane']} bytes apart")
            return v["planes"] * plane

        return (
            *op.HEAD,
            *PLANE_WORK,
            op.Count("planes"),
            op.Place("source", op.ARENA, source),
            op.Stride("source_plane"),
            op.Place("target", self.destination, target),
            op.Stride("target_plane"),
            op.ImageStride("target_image", self.destination),
            op.Count("pixels"),
            # For each pixel, bytes from the start of the source's plane.
            op.Indices("places", "<i4", lambda v: v["pixels"], unit=4),
        )

    @property
    def name(self) -> str:
        return f"take_{self.lanes}_{self.images}_{self.destination}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        places = e.address("places")
        with over_my_planes(e) as plane:
            here = e.add(e.field("source"), e.mul(plane, e.field("source_plane")))
            there = e.mul(plane, e.field("target_plane"))
            source = e.at(e.base("source"), here)
            target = e.at(e.base("target"), e.add(e.field("target"), there))
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
