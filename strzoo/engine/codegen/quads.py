"""Convolutions in 8 bits: the rows of one tile, four output channels to a word.

    acc[j] += dot(w, x[offset + place(j)])      of four input channels, 8 bits each (vpdpbusd)

A vector holds a word of every block, so patches, tiles and offsets are those of fp32. The rows of a
set of words are computed in the order of their weights, so that the processor guesses where loops
end; their sums, kept in memory, become numbers of 8 bits word by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from strzoo.engine.codegen.builder import F32, I8, I16, I32, I64, Emitter, number, vector_type

if TYPE_CHECKING:
    from strzoo.engine.codegen.convolution import ConvolutionKernel

QUAD = 4
FOUR = 4  # weights at a time
# By lanes: the dot product, float to the nearest integer, and the two packings of the vector's
# 128-bit parts, which saturate.
_INSTRUCTIONS = {
    16: ("llvm.x86.avx512.vpdpbusd.512", "llvm.x86.avx512.mask.cvtps2dq.512",
         "llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
    8: ("llvm.x86.avx512.vpdpbusd.256", "llvm.x86.avx.cvt.ps2dq.256",
        "llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
}  # fmt: skip
QUAD_LANES = tuple(_INSTRUCTIONS)
_SET_BYTES = 8 * 1024  # of the sums of a set, which stay in the first cache
_SET_WORDS = 64  # whose rows a byte can number
_CURRENT_ROUNDING = 4


def set_words(lanes: int, tile: int) -> int:
    """Words of a set, for tiles of `tile` vectors."""
    return max(1, min(_SET_WORDS, _SET_BYTES // (QUAD * 4 * lanes * tile)))


def set_starts(part_rows: np.ndarray, words: int) -> np.ndarray:
    """For each word, in the order of the parts, the first of its set: sets of `words` words follow
    each other from the start of each part on.

    Args:
        part_rows: [parts + 1], words.
    """
    first = np.repeat(part_rows[:-1], np.diff(part_rows)).astype(np.int64)
    return first + (np.arange(len(first)) - first) // words * words


def dot(e: Emitter, total: ir.Value, x: ir.Value, w: ir.Value) -> ir.Value:
    """`total`, int32, and the products of the unsigned bytes of `x` with the signed ones of `w`."""
    kind = ir.FunctionType(total.type, [total.type] * 3)
    return e.build.call(e.intrinsic(_INSTRUCTIONS[e.lanes][0], kind), [total, x, w])


def nearest(e: Emitter, value: ir.Value) -> ir.Value:
    """fp32 as the nearest int32."""
    name, words = _INSTRUCTIONS[e.lanes][1], vector_type(e.lanes, I32)
    if e.lanes < 16:
        return e.build.call(e.intrinsic(name, ir.FunctionType(words, [value.type])), [value])
    kind = ir.FunctionType(words, [value.type, words, I16, I32])
    rest = [ir.Constant(words, ir.Undefined), ir.Constant(I16, -1), ir.Constant(I32, 4)]
    return e.build.call(e.intrinsic(name, kind), [value, *rest])


def pack_words(e: Emitter, values: Sequence[ir.Value]) -> ir.Value:
    """Four vectors of int32 as one of words: byte k of a word is the number of `values[k]`, at
    least 0 and at most 255."""
    lanes = e.lanes
    words, halves, octets = (
        vector_type(lanes * size, kind) for size, kind in ((1, I32), (2, I16), (4, I8))
    )
    narrow = e.intrinsic(_INSTRUCTIONS[lanes][2], ir.FunctionType(halves, [words] * 2))
    pairs = [e.build.call(narrow, [values[k], values[k + 1]]) for k in (0, 2)]
    saturate = e.intrinsic(_INSTRUCTIONS[lanes][3], ir.FunctionType(octets, [halves] * 2))
    packed = e.build.call(saturate, pairs)
    # In each 128 bits lie four numbers of values[0], then of values[1], ...
    places = product(range(0, 4 * lanes, 16), range(4), range(4))
    order = [part + 4 * k + pixel for part, pixel, k in places]
    mask = ir.Constant(vector_type(4 * lanes, I32), order)
    mixed = e.build.shuffle_vector(packed, ir.Constant(octets, ir.Undefined), mask)
    return e.build.bitcast(mixed, words)


def byte_of(e: Emitter, words: ir.Value, which: int) -> ir.Value:
    """Byte `which` of each word, as fp32."""
    octets = vector_type(4 * e.lanes, I8)
    zeros = ir.Constant(octets, [0] * 4 * e.lanes)
    places = [
        4 * lane + which if byte == 0 else 4 * e.lanes
        for lane in range(e.lanes)
        for byte in range(4)
    ]
    mask = ir.Constant(vector_type(4 * e.lanes, I32), places)
    found = e.build.shuffle_vector(e.build.bitcast(words, octets), zeros, mask)
    number_ = e.build.bitcast(found, words.type)
    return e.build.sitofp(number_, vector_type(e.lanes, F32))


def splat_zero(e: Emitter, zero: int) -> ir.Constant:
    """Words whose bytes are `zero`."""
    return ir.Constant(vector_type(e.lanes, I32), [0x01010101 * zero] * e.lanes)


def keep_pixels(e: Emitter, words: ir.Value, mask: ir.Value, zero: int) -> ir.Value:
    """`words` where the bits of `mask` are ones, else the map's zero."""
    kept = e.build.and_(words, mask)
    if not zero:
        return kept
    return e.build.or_(kept, e.build.and_(splat_zero(e, zero), e.build.not_(mask)))


class QuadRows:
    """Writes the function of `rows.rows_function` for a kernel in 8 bits, whose rows are words.

    Args:
        args: of the function, by name; `fours` are the scales, `limits` the slots, `low` and `high`
            what a residual is multiplied by and what is added. `row` and `end` are those of a part
            of the rows, in words.
    """

    def __init__(
        self,
        kernel: ConvolutionKernel,
        emitter: Emitter,
        args: dict[str, ir.Value],
        tile: int,
        *,
        first: bool,
        last: bool,
    ) -> None:
        self.kernel, self.emit, self.args, self.tile = kernel, emitter, args, tile
        self.first, self.last = first, last
        self.step = 4 * emitter.lanes
        self.places = [self.step * kernel.patch.place(j) for j in range(tile)]
        self.words = vector_type(emitter.lanes, I32)

    def write(self) -> None:
        e, size = self.emit, set_words(self.emit.lanes, self.kernel.tile)
        stage = e.build.alloca(ir.ArrayType(self.words, QUAD * size * self.tile), name="stage")
        stage.align = self.step
        staged = e.build.bitcast(stage, I8.as_pointer())
        width = self.step * self.tile
        with e.loop(self.args["row"], self.args["end"], size) as first:
            stop = e.smallest_integer(e.add(first, size), self.args["end"])
            order = e.at(self.args["order"], e.mul(first, 4))
            with e.loop(e.mul(first, QUAD), e.mul(stop, QUAD)) as place:
                slot = e.build.zext(e.load(self.args["limits"], I8, place, align=1), I64)
                word = e.load_i32(order, e.build.and_(slot, number(-QUAD)))
                row = e.add(e.mul(word, QUAD), e.build.and_(slot, number(QUAD - 1)))
                sums = self._sums(place, row)
                there = e.at(staged, e.mul(slot, width)) if self.last else self._partial(row)
                for j, value in enumerate(sums):
                    e.store(value, there, self.step * j)
            if self.last:
                with e.loop(0, e.build.sub(stop, first)) as index:
                    word = e.load_i32(order, e.mul(index, 4))
                    self._end(e.at(staged, e.mul(index, QUAD * width)), word)
        e.finish()

    def _partial(self, row: ir.Value) -> ir.Value:
        e = self.emit
        return e.at(self.args["partial"], e.mul(row, self.step * self.tile))

    def _sums(self, place: ir.Value, row: ir.Value) -> list[ir.Value]:
        """Of the row whose entries are list number `place`."""
        e = self.emit
        ends, table = self.args["ends"], self.args["table"]
        start, stop = (e.load_i32(ends, e.add(e.mul(place, 4), 4 * k)) for k in (0, 1))
        if self.first:
            bias = e.splat(e.load(self.args["bias"], I32, e.mul(row, 4)), e.lanes)
            values = [bias] * self.tile
        else:
            partial = self._partial(row)
            values = [e.load(partial, self.words, self.step * j) for j in range(self.tile)]
        whole = e.add(start, e.build.and_(e.build.sub(stop, start), number(-FOUR)))
        sets = 2 if self.kernel.twice else 1
        values += [ir.Constant(self.words, [0] * e.lanes)] * (self.tile * (sets - 1))
        with e.carrying(start, whole, values, FOUR) as (position, sums, following):
            entry = e.mul(position, 2)
            packed = e.load(table, I64, entry, align=2)
            for k in range(FOUR):
                vector = e.build.and_(e.build.lshr(packed, number(16 * k)), number(0xFFFF))
                part = slice(k % sets * self.tile, (k % sets + 1) * self.tile)
                sums[part] = self._added(e.add(position, k), vector, sums[part])
            following += sums
        if self.kernel.twice:
            both = zip(following[: self.tile], following[self.tile :], strict=True)
            following = [e.build.add(a, b) for a, b in both]
        with e.carrying(whole, stop, following) as (position, sums, following):
            vector = e.build.zext(e.load(table, I16, e.mul(position, 2), align=2), I64)
            following += self._added(position, vector, sums)
        return following

    def _added(self, position: ir.Value, vector: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        e = self.emit
        weight = e.splat(e.load(self.args["weights"], I32, e.mul(position, 4)), e.lanes)
        source = e.at(self.args["x"], e.mul(vector, self.step))
        return [
            dot(e, total, e.load(source, self.words, place), weight)
            for place, total in zip(self.places, sums, strict=True)
        ]

    def _end(self, staged: ir.Value, group: ir.Value) -> None:
        """The results of the four rows of a word: vector by vector, so that a few registers are
        enough, and what is read for one serves all four."""
        e, kernel, args = self.emit, self.kernel, self.args
        floats = vector_type(e.lanes, F32)
        factors = e.at(args["fours"], e.mul(group, 4 * QUAD))
        scales = [e.splat(e.load(factors, F32, 4 * k)) for k in range(QUAD)]
        shift, factor = e.splat(args["high"]), e.splat(args["low"])
        target = e.at(args["out"], e.mul(group, args["plane"]))
        there = e.at(args["residual"], e.mul(group, args["residual_plane"]))
        with e.loop(0, number(self.tile)) as j:
            at = e.mul(j, self.step)
            added = [shift] * QUAD
            if kernel.residual:
                words = e.load(there, self.words, at)
                added = [e.fma(byte_of(e, words, k), factor, shift) for k in range(QUAD)]
            results = []
            for k, (scale, base) in enumerate(zip(scales, added, strict=True)):
                place = e.add(at, k * self.step * self.tile)
                total = e.build.sitofp(e.load(staged, self.words, place), floats)
                results.append(nearest(e, e.fma(total, scale, base)))
            made = pack_words(e, results)
            if kernel.masked:
                mask = e.load(args["mask"], self.words, at)
                made = keep_pixels(e, made, mask, kernel.zero)
            e.store(made, target, at)
