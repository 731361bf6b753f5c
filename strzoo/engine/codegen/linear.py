"""The kernels of fully connected layers: nonzero weights, row by row, times a vector per image.

The images of a group are the lanes. For a single image, several sums are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import BYTES, F32, I8, I16, I32, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.finishing import bounded

SUMS = 8  # independent ones, so that no multiplication waits for the one before
PARTS_AT_ONCE = 4  # that a thread takes
EXPANDED = (8, 16)  # numbers that can be spread over a vector by a mask: AVX2 (16 bits), AVX-512
AT_ONCE = 64  # inputs of a masked row
AHEAD = 1024  # bytes to prefetch: the weights are read once per run, from a far cache


@dataclass(frozen=True)
class LinearKernel:
    """What distinguishes one compiled kernel from another.

    Args:
        images: of a group.
        lanes: inputs multiplied at once in the dense form; else 1.
        dense: whether all weights are read, of a single image; else only the nonzero ones.
        masked: whether the nonzero weights of a single image's rows are spread over the inputs by
            a mask of one bit for each input.
        fixed: whether they are 16 bits each, with a scale for each row; masked only.
        wide: whether there are more inputs than 16 bits can name.
        bounds: of the results.
    """

    images: int = op.between(*op.LANES)
    lanes: int = op.between(*op.LANES, default=1)
    dense: bool = False
    wide: bool = False
    bounds: str = op.one_of(*op.BOUNDS, default="none")
    masked: bool = False
    fixed: bool = False

    def fits(self, lanes: int, images: int) -> bool:
        expected = (lanes, 1) if self.dense or self.masked else (1, images)
        spread = lanes in EXPANDED and (self.fixed or lanes == max(EXPANDED))
        form = not (self.masked and (self.dense or not spread)) and self.masked >= self.fixed
        return (self.lanes, self.images) == expected and self.images == images and form

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        dense, vector = self.dense, 4 * self.images

        def count_rows(v: op.Values) -> int:
            return int(v.table("part_rows")[-1])

        def count_weights(v: op.Values) -> int:
            return count_rows(v) * v["inputs"] if dense else int(v.table("ends")[-1])

        def read(v: op.Values) -> int:
            whole = dense or self.masked
            return vector * (v["inputs"] if whole else int(v.table("entries").max(initial=0)) + 1)

        def count_masked(v: op.Values) -> int:
            """Weights, after a check that every row has as many as its masks say."""
            bits = np.unpackbits(v.table("masks")).reshape(count_rows(v), -1).sum(1)
            if not np.array_equal(bits, np.diff(v.table("ends"))):
                raise ValueError("masks of more or fewer weights than there are")
            return count_weights(v) + self.lanes  # a whole vector is read

        return (
            *op.HEAD,
            *op.work(lambda v: v["parts"], lambda v: PARTS_AT_ONCE),
            op.Place("source", op.ARENA, read),
            op.Place("target", op.ARENA, lambda v: count_rows(v) * vector),
            op.Count("parts"),
            op.Ends("part_rows", "<i4", lambda v: v["parts"] + 1),  # rows of equal work
            op.Ends("ends", "<i4", lambda v: 0 if dense else count_rows(v) + 1),
            # The input of each nonzero weight.
            op.Table(
                "entries",
                "<u4" if self.wide else "<u2",
                lambda v: 0 if dense or self.masked else count_weights(v),
            ),
            # For each row and eight inputs, which of these have a weight.
            op.Table(
                "masks", "u1", lambda v: count_rows(v) * v["inputs"] // 8 if self.masked else 0
            ),
            op.Table(
                "weights",
                "<i2" if self.fixed else "<f4",
                count_masked if self.masked else count_weights,
            ),
            op.Count(
                "inputs",
                (lambda v: v["inputs"] // AT_ONCE * AT_ONCE) if self.masked else None,
            ),
            op.Table("scales", "<f4", lambda v: count_rows(v) if self.fixed else 0),
            op.Table("bias", "<f4", count_rows),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        form = "dense" * self.dense + "wide" * self.wide
        form += "masked" * self.masked + "fixed" * self.fixed
        return f"linear_{self.images}_{self.lanes}_{form}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, self.images, self)
        source, target = e.address("source"), e.address("target")
        bias = e.address("bias")
        low, high = e.real_field("low"), e.real_field("high")
        bounds = e.address("part_rows")
        first, last = (e.load_i32(bounds, e.mul(part, 4)) for part in (e.first, e.last))
        compute = self._dense if self.dense else self._masked if self.masked else self._sparse
        with e.loop(first, last) as row:
            total = compute(e, source, row)
            if self.fixed:
                total = e.build.fmul(total, e.load(e.address("scales"), F32, e.mul(row, 4)))
            total = e.build.fadd(total, e.splat(e.load(bias, F32, e.mul(row, 4))))
            (total,) = bounded(e, [total], self.bounds, low, high)
            e.store(total, target, e.mul(row, 4 * self.images))
        e.finish()
        return function

    def _sparse(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        ends, entries, weights = (e.address(name) for name in ("ends", "entries", "weights"))
        start, stop = e.load_i32(ends, e.mul(row, 4)), e.load_i32(ends, e.add(e.mul(row, 4), 4))
        index = I32 if self.wide else I16
        size = index.width // 8

        def product(position: ir.Value, total: ir.Value) -> ir.Value:
            place = e.load(entries, index, e.mul(position, size), align=size)
            offset = e.mul(e.build.zext(place, I64), 4 * self.images)
            weight = e.splat(e.load(weights, F32, e.mul(position, 4)))
            return e.fma(weight, e.load_vector(source, offset), total)

        count = e.build.sub(stop, start)
        whole = e.add(start, e.mul(e.build.udiv(count, number(SUMS)), SUMS))
        zeros = [e.constant(0.0)] * SUMS
        with e.carrying(start, whole, zeros, SUMS) as (position, sums, following):
            e.prefetch(e.at(entries, e.add(e.mul(position, size), AHEAD)))
            e.prefetch(e.at(weights, e.add(e.mul(position, 4), AHEAD)))
            following += [product(e.add(position, k), total) for k, total in enumerate(sums)]
        total = _sum(e, following)
        with e.carrying(whole, stop, [total]) as (position, sums, following):
            following.append(product(position, sums[0]))
        return following[0]

    def _dense(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        inputs = e.field("inputs")
        skipped = e.add(e.field("weights"), e.mul(e.mul(row, inputs), 4))
        weights = e.at(e.base("weights"), skipped)
        turn = SUMS * self.lanes
        whole = e.mul(e.build.udiv(inputs, number(turn)), turn)
        zeros = [e.constant(0.0, self.lanes)] * SUMS
        with e.carrying(0, whole, zeros, turn) as (position, sums, following):
            for k, total in enumerate(sums):
                place = e.add(e.mul(position, 4), 4 * k * self.lanes)
                a, b = (e.load_vector(base, place, self.lanes) for base in (weights, source))
                following.append(e.fma(a, b, total))
        total = self._sum_of_lanes(e, following)
        with e.carrying(whole, inputs, [total]) as (position, sums, following):
            place = e.mul(position, 4)
            a, b = (e.load(base, F32, place) for base in (weights, source))
            following.append(e.fma(a, b, sums[0]))
        return following[0]

    def _masked(self, e: Emitter, source: ir.Value, row: ir.Value) -> ir.Value:
        """The weights of as many inputs as a vector has are loaded one after the other, then spread
        over the lanes."""
        build, inputs, lanes = e.build, e.field("inputs"), self.lanes
        item = 2 if self.fixed else 4
        word = ir.IntType(lanes)
        count = e.intrinsic(f"llvm.ctpop.i{lanes}", ir.FunctionType(word, [word]))
        masks = e.at(e.address("masks"), e.mul(row, build.udiv(inputs, number(8))))
        start = e.mul(e.load_i32(e.address("ends"), e.mul(row, 4)), item)
        first = e.at(e.address("weights"), start)
        zeros: list[ir.Value] = [e.constant(0.0, lanes)] * (AT_ONCE // lanes)
        with e.carrying(0, inputs, [*zeros, number(0)], AT_ONCE) as (position, values, following):
            *sums, place = values
            four = e.load(masks, I64, build.udiv(position, number(8)), align=1)
            e.prefetch(e.at(first, e.add(place, AHEAD)))
            for k, total in enumerate(sums):
                mask = build.trunc(build.lshr(four, number(lanes * k)), word)
                weights = self._expanded(e, e.at(first, place), mask)
                there = e.add(e.mul(position, 4), 4 * k * lanes)
                following.append(e.fma(weights, e.load_vector(source, there, lanes), total))
                place = e.add(place, e.mul(build.zext(build.call(count, [mask]), I64), item))
            following.append(place)
        return self._sum_of_lanes(e, following[:-1])

    def _expanded(self, e: Emitter, place: ir.Value, mask: ir.Value) -> ir.Value:
        """A vector of weights, in fp32, those in `mask` from `place` on and the others zero."""
        build, lanes = e.build, self.lanes
        floats, words = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
        if self.fixed and lanes == 8:
            return build.sitofp(build.sext(_spread(e, place, mask), words), floats)
        mask = build.bitcast(mask, ir.VectorType(ir.IntType(1), lanes))
        if "+avx512f" in getattr(e.module, "features", ""):
            value = e.load_vector(place, 0, lanes)
            if self.fixed:
                whole = e.load(place, ir.VectorType(I16, lanes), align=2)
                value = build.sitofp(build.sext(whole, words), floats)
            kind = ir.FunctionType(floats, [floats, floats, mask.type])
            expand = e.intrinsic(f"llvm.x86.avx512.mask.expand.v{lanes}f32", kind)
            return build.call(expand, [value, e.constant(0.0, lanes), mask])
        # Elsewhere LLVM makes a loop of this.
        element, name = (I16, "i16") if self.fixed else (F32, "f32")
        vector = ir.VectorType(element, lanes)
        kind = ir.FunctionType(vector, [BYTES, mask.type, vector])
        load = e.intrinsic(f"llvm.masked.expandload.v{lanes}{name}", kind)
        zeros = ir.Constant(vector, [0 if self.fixed else 0.0] * lanes)
        value = build.call(load, [place, mask, zeros])
        return build.sitofp(build.sext(value, words), floats) if self.fixed else value

    def _sum_of_lanes(self, e: Emitter, sums: list[ir.Value]) -> ir.Value:
        total = _sum(e, sums)
        if self.lanes == 1:
            return total
        lanes = range(self.lanes)
        return _sum(e, [e.build.extract_element(total, ir.Constant(I32, lane)) for lane in lanes])


def _spread(e: Emitter, place: ir.Value, mask: ir.Value) -> ir.Value:
    """The 16-bit numbers from `place` on in the eight lanes that the byte `mask` has bits for, and
    zeros in the others: a shuffle of bytes, by a table of all masks."""
    octets = ir.VectorType(I8, 16)
    name = "spread_of_masks"
    table = e.module.globals.get(name)
    if table is None:
        rows = [ir.Constant(octets, _places_of(value)) for value in range(256)]
        table = ir.GlobalVariable(e.module, ir.ArrayType(octets, 256), name)
        table.global_constant, table.linkage = True, "internal"
        table.initializer = ir.Constant(table.value_type, rows)
    start = e.build.bitcast(table, BYTES)
    order = e.load(start, octets, e.mul(e.build.zext(mask, I64), 16), align=16)
    kind = ir.FunctionType(octets, [octets, octets])
    shuffle = e.intrinsic("llvm.x86.ssse3.pshuf.b.128", kind)
    found = e.build.call(shuffle, [e.load(place, octets, align=2), order])
    return e.build.bitcast(found, ir.VectorType(I16, 8))


def _places_of(mask: int) -> list[int]:
    """For each byte of eight lanes, which one goes there; 128 for a zero."""
    found: list[int] = []
    for lane in range(8):
        first = 2 * (mask & ((1 << lane) - 1)).bit_count()
        found += [first, first + 1] if mask >> lane & 1 else [128, 128]
    return found


def _sum(e: Emitter, values: list[ir.Value]) -> ir.Value:
    while len(values) > 1:
        values = [e.build.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]
