"""The kernel that copies pixels into 16-bit fixed point, out of it, or within it.

A number q of a plane stands for q * scale. As in `packing`, a table that is the same for all planes
says where each value comes from, in the order in which the values are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I16, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import masked
from strzoo.engine.codegen.packing import fetch_ahead, row_starts
from strzoo.engine.codegen.tiles import (
    PIECES,
    TILE_WORK,
    TILES,
    over_my_tiles,
    tiled,
    tiled_extent,
    tiled_field,
)

LARGEST = 32767  # number of 16 bits
ROW = 8  # pixels next to each other that are converted at once
_PLACES = (0, 4, 2, 6, 1, 5, 3, 7)  # of the pixels after the three steps of a transposition
KINDS = ("quantize", "dequantize", "copy")


@dataclass(frozen=True)
class FixedPackKernel:
    """Copies pixels of one image into the planes of a buffer.

    Args:
        lanes: floats of a vector.
        kind: "quantize" (fp32 to fixed point), "dequantize" (back), or "copy".
        origin: "arena", or "input", the caller's images.
        masked: whether some places are no pixels; they get the operand `fill`.
        rows: whether `ROW` vectors in a row hold, in each lane, pixels that are next to each other
            in the source.
    """

    lanes: int = op.between(*op.LANES)
    kind: str = op.one_of(*KINDS)
    origin: str = op.one_of(op.ARENA, op.INPUT, default=op.ARENA)
    masked: bool = False
    rows: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        quantizes = self.kind == "quantize"
        known = self.origin == op.ARENA or quantizes
        whole = quantizes and not self.masked and self._width % ROW == 0
        return (self.lanes, 1) == (lanes, images) and known and (whole or not self.rows)

    @property
    def _width(self) -> int:
        """Numbers in a vector of the target."""
        return self.lanes * (1 if self.kind == "dequantize" else 2)

    @property
    def _item(self) -> int:
        """Bytes of a number of the source."""
        return 4 if self.kind == "quantize" else 2

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def source(v: op.Values) -> int:
            places, read = v.table("places"), self._item
            if self.rows:
                starts = row_starts(v["target_vectors"], v["tile"], ROW)
                if starts is None:
                    raise ValueError(f"a tile of less than {ROW} vectors")
                places = places.reshape(v["phases"], v["target_vectors"], self._width)[:, starts]
                read = self._item * ROW
            return (v["planes"] - 1) * v["source_plane"] + int(places.max()) + read

        def target(v: op.Values) -> int:
            planes, tile = v["planes"] * v["phases"], 4 * self.lanes * v["tile"]
            return tiled_extent(v, "target", planes, tile, written=True)

        def count_numbers(v: op.Values) -> int:
            return v["phases"] * v["target_vectors"] * self._width

        def count_words(v: op.Values) -> int:
            return v["phases"] * v["target_vectors"] * self.lanes * self.masked

        return (
            *op.HEAD,
            *TILE_WORK,
            op.Count("planes"),
            op.Count("phases"),  # planes of the target for each of the source
            op.Place("source", self.origin, source),
            op.Stride("source_plane"),
            *tiled("target", target),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            # For each number of each phase, bytes from the start of the source's plane.
            op.Indices("places", "<i4", count_numbers, unit=self._item),
            op.Table("mask", "<u4", count_words),
            # What the values of each plane are multiplied by.
            op.Table("scales", "<f4", lambda v: v["planes"] * (self.kind != "copy")),
            # What was gathered of one tile.
            op.Place(
                "gathered",
                op.SCRATCH,
                lambda v: v["tile"] * self._width * self._item * (not self.rows),
            ),
            op.Real("fill"),
        )

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.lanes}_{self.origin}{'m' * self.masked}{'r' * self.rows}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self, fixed=self.kind != "dequantize")
        phases, step = e.field("phases"), 4 * self.lanes
        size, vectors = e.field("tile"), e.field("target_vectors")
        with over_my_tiles(e) as (tile, plane, count):
            source = e.at(
                e.base("source"), e.add(e.field("source"), e.mul(plane, e.field("source_plane")))
            )
            scale = None
            if self.kind != "copy":
                scale = e.splat(e.load(e.address("scales"), F32, e.mul(plane, 4)), self.lanes)
            first = e.mul(tile, size)
            with e.loop(0, phases) as phase:
                skipped = e.add(e.mul(phase, vectors), first)
                places = e.at(e.address("places"), e.mul(skipped, 4 * self._width))
                there = tiled_field(e, "target", tile, e.add(e.mul(plane, phases), phase))
                if self.origin == op.INPUT:
                    fetch_ahead(e, source, first, count, self._width)
                if self.rows:
                    self._rows(e, source, places, count, scale, there)
                else:
                    mask = e.at(e.address("mask"), e.mul(skipped, step))
                    self._pixels(e, source, places, mask, count, scale, there)
        e.finish()
        return function

    def _pixels(
        self,
        e: Emitter,
        source: ir.Value,
        places: ir.Value,
        mask: ir.Value,
        count: ir.Value,
        scale: ir.Value | None,
        there: ir.Value,
    ) -> None:
        """`count` vectors, number by number."""
        gathered = e.address("gathered")
        # The whole tile first: a vector cannot be loaded until its parts are in the cache.
        with e.loop(0, e.mul(count, self._width), 8 // self._item) as index:
            self._gather(e, source, places, index, gathered)
        with e.loop(0, count) as vector:
            value = self._converted(e, gathered, vector, scale)
            place = e.mul(vector, 4 * self.lanes)
            if self.masked:
                bits = e.load(mask, ir.VectorType(I32, self.lanes), place)
                value = self._filled(e, masked(e, value, bits), bits)
            e.store(value, there, place)

    def _rows(
        self,
        e: Emitter,
        source: ir.Value,
        places: ir.Value,
        count: ir.Value,
        scale: ir.Value | None,
        there: ir.Value,
    ) -> None:
        """`count` vectors, `ROW` pixels of each lane at a time."""
        final = e.build.sub(count, number(ROW))
        with e.loop(0, count, ROW) as vector:
            at = e.smallest_integer(vector, final)
            here = e.at(places, e.mul(at, 4 * self._width))
            self._row(e, source, here, scale, e.at(there, e.mul(at, 4 * self.lanes)))

    def _gather(
        self,
        e: Emitter,
        source: ir.Value,
        places: ir.Value,
        index: ir.Value,
        gathered: ir.Value,
    ) -> None:
        """Eight bytes of numbers, from `index` on."""
        kind = I32 if self._item == 4 else I16
        value = number(0)
        for k in range(8 // self._item):
            place = e.load_i32(places, e.mul(e.add(index, k), 4))
            part = e.build.zext(e.load(source, kind, place, align=self._item), I64)
            value = e.build.or_(value, e.build.shl(part, number(8 * self._item * k)))
        e.store(value, gathered, e.mul(index, self._item), align=8)

    def _converted(
        self, e: Emitter, gathered: ir.Value, vector: ir.Value, scale: ir.Value | None
    ) -> ir.Value:
        build, lanes = e.build, self.lanes
        place = e.mul(vector, self._width * self._item)
        if self.kind == "copy":
            return e.load_vector(gathered, place)
        floats, words = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
        if self.kind == "dequantize":
            numbers = e.load(gathered, ir.VectorType(I16, lanes), place, align=2)
            return build.fmul(build.sitofp(build.sext(numbers, words), floats), scale)
        halves = [e.load(gathered, floats, e.add(place, 4 * lanes * half)) for half in (0, 1)]
        return self._quantized(e, halves, scale)

    def _quantized(
        self, e: Emitter, halves: Sequence[ir.Value], scale: ir.Value | None
    ) -> ir.Value:
        """Two vectors of floats as one of numbers of 16 bits."""
        build, lanes = e.build, self.lanes
        floats, words = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
        nearest = e.intrinsic(f"llvm.nearbyint.v{lanes}f32", ir.FunctionType(floats, [floats]))
        parts = []
        for half in halves:
            value = build.fmul(half, scale)
            for bound, compare in ((LARGEST, "<"), (-LARGEST, ">")):
                limit = ir.Constant(floats, [float(bound)] * lanes)
                value = build.select(build.fcmp_ordered(compare, value, limit), value, limit)
            parts.append(build.fptosi(build.call(nearest, [value]), words))
        return build.trunc(e.joined(parts), ir.VectorType(I16, 2 * lanes))

    def _row(
        self,
        e: Emitter,
        source: ir.Value,
        places: ir.Value,
        scale: ir.Value | None,
        there: ir.Value,
    ) -> None:
        """`ROW` pixels of each lane: squares of as many lanes and pixels are transposed."""
        pixels = [
            e.load(e.at(source, e.load_i32(places, 4 * lane)), ir.VectorType(F32, ROW), align=4)
            for lane in range(self._width)
        ]
        made = []  # vector k has the pixels of the lanes k, k + 8, k + 16, ...
        for k in range(ROW):
            parts = e.parted(e.joined(pixels[k::ROW]), 2)
            made.append(self._quantized(e, parts, scale))
        for size in (1, 2, 4):
            pairs = [n for n in range(ROW) if not n & size]
            mixed = {n: self._mixed(e, made[n], made[n + size], size) for n in pairs}
            made = [mixed[n & ~size][bool(n & size)] for n in range(ROW)]
        for k, value in enumerate(made):
            e.store(value, there, 4 * self.lanes * _PLACES[k])

    def _mixed(self, e: Emitter, x: ir.Value, y: ir.Value, size: int) -> tuple[ir.Value, ir.Value]:
        """Of each `ROW` numbers, the first half of x and of y in turns of `size`, and the second
        half."""
        made = []
        for half in (0, ROW // 2):
            mask = [
                start + half + index + self._width * other
                for start in range(0, self._width, ROW)
                for first in range(0, ROW // 2, size)
                for other in (0, 1)
                for index in range(first, first + size)
            ]
            kind = ir.VectorType(I32, self._width)
            made.append(e.build.shuffle_vector(x, y, ir.Constant(kind, mask)))
        return made[0], made[1]

    def _filled(self, e: Emitter, value: ir.Value, bits: ir.Value) -> ir.Value:
        """`value`, which is zero where there is no pixel, with the fill there."""
        fill = e.real_field("fill")
        filling = e.splat(e.build.fptosi(fill, I16) if e.fixed else fill)
        words = ir.VectorType(I32, self.lanes)
        outside = e.build.and_(e.build.bitcast(filling, words), e.build.not_(bits))
        both = e.build.or_(e.build.bitcast(value, words), outside)
        return e.build.bitcast(both, value.type)
