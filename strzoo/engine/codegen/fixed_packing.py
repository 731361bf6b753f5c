"""The kernel that copies pixels into 16-bit fixed point, out of it, or within it.

A number q of a plane stands for q * scale. As in `packing`, a table that is the same for all planes
says where each value comes from, in the order in which the values are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I16, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import masked
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
AHEAD = 14  # vectors; images come from a far cache
KINDS = ("quantize", "dequantize", "copy")


@dataclass(frozen=True)
class FixedPackKernel:
    """Copies pixels of one image into the planes of a buffer.

    Args:
        lanes: floats of a vector.
        kind: "quantize" (fp32 to fixed point), "dequantize" (back), or "copy".
        origin: "arena", or "input", the caller's images.
        masked: whether some places are no pixels; they get the operand `fill`.
    """

    lanes: int = op.between(*op.LANES)
    kind: str = op.one_of(*KINDS)
    origin: str = op.one_of(op.ARENA, op.INPUT, default=op.ARENA)
    masked: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, 1) == (lanes, images) and (
            self.origin == op.ARENA or self.kind == "quantize"
        )

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
            return (v["planes"] - 1) * v["source_plane"] + int(v.table("places").max()) + self._item

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
            op.Place("gathered", op.SCRATCH, lambda v: v["tile"] * self._width * self._item),
            op.Real("fill"),
        )

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.lanes}_{self.origin}{'m' * self.masked}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self, fixed=self.kind != "dequantize")
        phases, step = e.field("phases"), 4 * self.lanes
        size, vectors = e.field("tile"), e.field("target_vectors")
        gathered = e.address("gathered")
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
                mask = e.at(e.address("mask"), e.mul(skipped, step))
                there = tiled_field(e, "target", tile, e.add(e.mul(plane, phases), phase))
                if self.origin == op.INPUT:
                    self._fetch_ahead(e, source, first, count)
                # The whole tile first: a vector cannot be loaded until its parts are in the cache.
                with e.loop(0, e.mul(count, self._width), 8 // self._item) as index:
                    self._gather(e, source, places, index, gathered)
                with e.loop(0, count) as vector:
                    value = self._converted(e, gathered, vector, scale)
                    place = e.mul(vector, step)
                    if self.masked:
                        bits = e.load(mask, ir.VectorType(I32, self.lanes), place)
                        value = self._filled(e, masked(e, value, bits), bits)
                    e.store(value, there, place)
        e.finish()
        return function

    def _fetch_ahead(self, e: Emitter, source: ir.Value, first: ir.Value, count: ir.Value) -> None:
        """Fetch what a vector some tiles ahead is made of: it comes from as many rows of the image
        as it has numbers, more than the processor follows by itself."""
        last = e.build.sub(e.field("target_vectors"), number(1))
        ahead = e.smallest_integer(e.add(e.add(first, count), AHEAD), last)
        places = e.at(e.address("places"), e.mul(ahead, 4 * self._width))
        with e.loop(0, number(self._width)) as index:
            e.prefetch(e.at(source, e.load_i32(places, e.mul(index, 4))))

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
            halves = e.load(gathered, ir.VectorType(I16, lanes), place, align=2)
            return build.fmul(build.sitofp(build.sext(halves, words), floats), scale)
        nearest = e.intrinsic(f"llvm.nearbyint.v{lanes}f32", ir.FunctionType(floats, [floats]))
        parts = []
        for half in (0, 1):
            value = build.fmul(e.load(gathered, floats, e.add(place, 4 * lanes * half)), scale)
            for bound, compare in ((LARGEST, "<"), (-LARGEST, ">")):
                limit = ir.Constant(floats, [float(bound)] * lanes)
                value = build.select(build.fcmp_ordered(compare, value, limit), value, limit)
            parts.append(build.fptosi(build.call(nearest, [value]), words))
        mask = ir.Constant(ir.VectorType(I32, 2 * lanes), list(range(2 * lanes)))
        both = build.shuffle_vector(*parts, mask)
        return build.trunc(both, ir.VectorType(I16, 2 * lanes))

    def _filled(self, e: Emitter, value: ir.Value, bits: ir.Value) -> ir.Value:
        """`value`, which is zero where there is no pixel, with the fill there."""
        fill = e.real_field("fill")
        filling = e.splat(e.build.fptosi(fill, I16) if e.fixed else fill)
        words = ir.VectorType(I32, self.lanes)
        outside = e.build.and_(e.build.bitcast(filling, words), e.build.not_(bits))
        both = e.build.or_(e.build.bitcast(value, words), outside)
        return e.build.bitcast(both, value.type)
