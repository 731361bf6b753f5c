"""The kernels at the borders of maps in 8 bits: into them, out of them, and the mean of planes.

As in `packing`, a table that is the same for all planes says where each value comes from, in the
order in which the values are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import F32, I8, I32, I64, KERNEL, Emitter, number, vector_type
from strzoo.engine.codegen.finishing import masked
from strzoo.engine.codegen.global_pool import vector_part
from strzoo.engine.codegen.packing import ROW, fetch_ahead, load_row, row_starts
from strzoo.engine.codegen.quads import (
    QUAD,
    QUAD_LANES,
    byte_of,
    keep_pixels,
    nearest,
    pack_words,
)
from strzoo.engine.codegen.tiles import (
    PIECES,
    PLANE_WORK,
    TILE_WORK,
    TILES,
    over_my_planes,
    over_my_tiles,
    plane_extent,
    tiled,
    tiled_extent,
    tiled_field,
)

_LARGEST = 1e6  # beyond it, a float as an integer would be of another sign
KINDS = ("quantize", "dequantize")


@dataclass(frozen=True)
class QuadPackKernel:
    """Copies the pixels of one image between fp32 and words of four numbers of 8 bits.

    Args:
        lanes: floats of a vector.
        kind: "quantize" (fp32 to 8 bits), or "dequantize".
        origin: "arena", or "input", the caller's images.
        masked: whether some places are no pixels, which become 0.
        zero: the number of 8 bits that stands for 0.
        parts: numbers of a word that are read; the others are as the last one, and their weights
            zero.
        rows: whether four vectors from a place of `row_starts` on hold, in each lane, four pixels
            that lie `stride` floats apart; of "quantize" without masks.
        stride: 1 or 2.
    """

    lanes: int = op.between(*op.LANES)
    kind: str = op.one_of(*KINDS)
    origin: str = op.one_of(op.ARENA, op.INPUT, default=op.ARENA)
    masked: bool = False
    zero: int = op.between(0, 255, default=0)
    parts: int = op.between(1, QUAD, default=QUAD)
    rows: bool = False
    stride: int = op.between(1, 2, default=1)

    def fits(self, lanes: int, images: int) -> bool:
        quantizes = self.kind == "quantize"
        known = self.origin == op.ARENA or quantizes
        whole = quantizes and not self.masked
        form = (whole or not self.rows) and (quantizes or self.parts == QUAD)
        form = form and (self.rows or self.stride == 1)
        return (self.lanes, 1) == (lanes, images) and lanes in QUAD_LANES and known and form

    @property
    def _depth(self) -> int:
        """Planes of numbers that make one plane of the target."""
        return QUAD if self.kind == "quantize" else 1

    @property
    def _gathered(self) -> int:
        """Those that are read."""
        return self.parts if self.kind == "quantize" else 1

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        unit = 4 if self.kind == "quantize" else 1

        def source(v: op.Values) -> int:
            places, read = v.table("places"), unit
            if self.rows:
                starts = row_starts(v["target_vectors"], v["tile"])
                if starts is None:
                    raise ValueError(f"a tile of less than {ROW} vectors")
                places = places.reshape(-1, self.lanes)[starts]
                read = 4 * (self.stride * (ROW - 1) + 1)
            return int(v.table("starts").max()) + int(places.max()) + read

        def target(v: op.Values) -> int:
            tile = 4 * self.lanes * v["tile"]
            return tiled_extent(v, "target", v["planes"], tile, written=True)

        def count_numbers(v: op.Values) -> int:
            return v["target_vectors"] * self.lanes

        return (
            *op.HEAD,
            *TILE_WORK,
            op.Count("planes"),
            op.Place("source", self.origin, source),
            # For each number of each word, or each plane of floats, bytes from the source.
            op.Indices("starts", "<i8", lambda v: v["planes"] * self._depth, unit=unit),
            *tiled("target", target),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Count("target_vectors"),
            # For each word or float, bytes from there to a pixel.
            op.Indices("places", "<i4", count_numbers, unit=4),
            op.Table("mask", "<u4", lambda v: count_numbers(v) * self.masked),
            # What was gathered of one tile.
            op.Place(
                "gathered",
                op.SCRATCH,
                lambda v: 4 * self._gathered * v["tile"] * self.lanes * (not self.rows),
            ),
            op.Real("scale"),
        )

    @property
    def name(self) -> str:
        form = f"{self.origin}{self.parts}{'m' * self.masked}{f'r{self.stride}' * self.rows}"
        return f"quad_{self.kind}_{self.lanes}_{form}_{self.zero}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        with over_my_tiles(e) as (tile, plane, count):
            first = e.mul(tile, e.field("tile"))
            places = e.at(e.address("places"), e.mul(first, 4 * self.lanes))
            there = tiled_field(e, "target", tile, plane)
            (self._rows if self.rows else self._pixels)(e, plane, first, count, places, there)
        e.finish()
        return function

    def _rows(
        self,
        e: Emitter,
        plane: ir.Value,
        first: ir.Value,
        count: ir.Value,
        places: ir.Value,
        there: ir.Value,
    ) -> None:
        """`count` vectors, four pixels of each lane at a time."""
        step, final = 4 * self.lanes, e.build.sub(count, number(ROW))
        sources = [self._source(e, plane, number(k)) for k in range(self.parts)]
        if self.origin == op.INPUT:
            for source in sources:
                fetch_ahead(e, source, first, count, self.lanes)
        with e.loop(0, count, ROW) as vector:
            at = e.mul(e.smallest_integer(vector, final), step)
            planes = [
                load_row(e, source, e.at(places, at), self.lanes, self.stride) for source in sources
            ]
            for index, parts in enumerate(zip(*planes, strict=True)):
                e.store(self._converted(e, parts, None), there, e.add(at, step * index))

    def _pixels(
        self,
        e: Emitter,
        plane: ir.Value,
        first: ir.Value,
        count: ir.Value,
        places: ir.Value,
        there: ir.Value,
    ) -> None:
        """`count` vectors, number by number."""
        gathered, depth, step = e.address("gathered"), self._gathered, 4 * self.lanes
        mask = e.at(e.address("mask"), e.mul(first, step)) if self.masked else None
        whole = e.mul(e.field("tile"), step)  # bytes that were gathered of a plane
        # The whole tile first: a vector cannot be loaded until its parts are in the cache.
        with e.loop(0, number(depth)) as k:
            source = self._source(e, plane, k)
            into = e.at(gathered, e.mul(k, whole))
            with e.loop(0, e.mul(count, self.lanes)) as index:
                place = e.load_i32(places, e.mul(index, 4))
                e.store(self._number(e, source, place), into, e.mul(index, 4))
        with e.loop(0, count) as vector:
            at = e.mul(vector, step)
            parts = [e.load_vector(gathered, e.add(e.mul(whole, k), at)) for k in range(depth)]
            bits = e.load(mask, vector_type(self.lanes, I32), at) if mask is not None else None
            e.store(self._converted(e, parts, bits), there, at)

    def _source(self, e: Emitter, plane: ir.Value, k: ir.Value) -> ir.Value:
        """Where the numbers of part `k` of a plane are."""
        index = e.mul(e.add(e.mul(plane, self._depth), k), 8)
        start = e.load(e.address("starts"), I64, index, align=8)
        return e.at(e.base("source"), e.add(e.field("source"), start))

    def _number(self, e: Emitter, source: ir.Value, place: ir.Value) -> ir.Value:
        if self.kind == "quantize":
            return e.load(source, I32, place)
        return e.build.zext(e.load(source, I8, place, align=1), I32)

    def _converted(self, e: Emitter, parts: Sequence[ir.Value], mask: ir.Value | None) -> ir.Value:
        scale, zero = e.splat(e.real_field("scale")), e.constant(float(self.zero))
        if self.kind == "quantize":
            most = e.constant(_LARGEST)
            numbers = [nearest(e, e.smallest(e.fma(part, scale, zero), most)) for part in parts]
            words = pack_words(e, numbers + numbers[-1:] * (QUAD - len(numbers)))
            return words if mask is None else keep_pixels(e, words, mask, self.zero)
        words = e.build.bitcast(parts[0], vector_type(self.lanes, I32))
        value = e.build.fsub(e.build.uitofp(words, vector_type(self.lanes)), zero)
        value = e.build.fmul(value, scale)
        return value if mask is None else masked(e, value, mask)


@dataclass(frozen=True)
class QuadPoolKernel:
    """The mean of each channel of a map in 8 bits, in fp32.

    Args:
        lanes: floats of a vector.
        zero: the number that stands for 0.
    """

    lanes: int = op.between(*op.LANES)
    zero: int = op.between(0, 255, default=0)

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, 1) == (lanes, images) and lanes in QUAD_LANES

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        return (
            *op.HEAD,
            *PLANE_WORK,
            *tiled("source", plane_extent(self.lanes, "source")),
            op.Count("tile"),
            TILES,
            *PIECES,
            op.Place("target", op.ARENA, lambda v: 4 * QUAD * v["planes"]),  # features
            op.Count("target_vectors"),  # of a plane of the source
            op.Count("planes"),
            op.Table("mask", "<u4", lambda v: self.lanes * v["target_vectors"]),
            op.Real("share"),  # 1 / pixels
            op.Real("scale"),
        )

    @property
    def name(self) -> str:
        return f"quad_pool_{self.lanes}_{self.zero}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.lanes, self)
        mask, step, words = e.address("mask"), 4 * self.lanes, vector_type(self.lanes, I32)
        size, vectors = e.field("tile"), e.field("target_vectors")
        share, scale = e.real_field("share"), e.real_field("scale")
        none = [e.constant(0.0)] * QUAD
        with over_my_planes(e) as plane:
            with e.carrying(0, e.field("tiles"), none) as (tile, sums, totals):
                source = tiled_field(e, "source", tile, plane)
                first = e.mul(tile, size)
                count = e.smallest_integer(size, e.build.sub(vectors, first))
                with e.carrying(0, count, sums) as (index, values, following):
                    bits = e.load(mask, words, e.mul(e.add(first, index), step))
                    word = e.build.and_(e.load(source, words, e.mul(index, step)), bits)
                    following += [
                        e.build.fadd(value, byte_of(e, word, k)) for k, value in enumerate(values)
                    ]
                totals += following
            place = e.add(e.field("target"), e.mul(plane, 4 * QUAD))
            for k, total in enumerate(totals):
                width = self.lanes
                while width > 1:  # exact: whole numbers below 2^24
                    width //= 2
                    halves = (vector_part(e, total, half * width, width) for half in (0, 1))
                    total = e.build.fadd(*halves)
                mean = e.build.fsub(e.build.fmul(total, share), ir.Constant(F32, float(self.zero)))
                e.store(e.build.fmul(mean, scale), e.at(e.base("target"), place), 4 * k)
        e.finish()
        return function
