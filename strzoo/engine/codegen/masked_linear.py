"""The kernel of fully connected layers in 16 bits: weights that masks spread over the inputs.

The features become numbers of 16 bits first. The weights of as many inputs as a vector has lie one
after the other; a mask of one bit for each input says where they belong. Products are summed in
pairs, in 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import (
    BYTES,
    F32,
    I8,
    I16,
    I32,
    I64,
    KERNEL,
    Emitter,
    number,
    vector_type,
)
from strzoo.engine.codegen.finishing import bounded
from strzoo.engine.codegen.global_pool import vector_part
from strzoo.engine.ir.masks import AT_ONCE, LARGEST_FEATURE, SEGMENT, padded

MASKED_LANES = (8, 16)  # of vectors for which there is a form: AVX2, AVX-512
READ = 32  # weights that are loaded at a time
_PARTS_AT_ONCE = 4  # that a thread takes
_AHEAD = 1024  # bytes to prefetch: the weights are read once per run, from a far cache
_LEAST = 1e-30
# Added to a float of at most 2^22, it moves the nearest integer to the last bits.
_MAGIC = float(3 << 22)


@dataclass(frozen=True)
class MaskedLinearKernel:
    """What distinguishes one compiled kernel from another.

    Args:
        lanes: floats of a vector.
        bounds: of the results.
    """

    lanes: int = op.between(*op.LANES)
    bounds: str = op.one_of(*op.BOUNDS, default="none")

    def fits(self, lanes: int, images: int) -> bool:
        return (self.lanes, 1) == (lanes, images) and lanes in MASKED_LANES

    @cached_property
    def operands(self) -> tuple[op.Operand, ...]:
        def count_rows(v: op.Values) -> int:
            return int(v.table("part_rows")[-1])

        def count_weights(v: op.Values) -> int:
            """After a check that every row has as many as its masks say."""
            bits = np.unpackbits(v.table("masks")).reshape(count_rows(v), -1).sum(1)
            if not np.array_equal(bits, np.diff(v.table("ends"))):
                raise ValueError("masks of more or fewer weights than there are")
            return int(v.table("ends")[-1]) + READ  # a whole vector is read

        return (
            *op.HEAD,
            *op.work(lambda v: v["parts"], lambda v: _PARTS_AT_ONCE),
            op.Place("source", op.ARENA, lambda v: 4 * v["inputs"]),
            op.Place("target", op.ARENA, lambda v: 4 * count_rows(v)),
            op.Count("parts"),
            op.Ends("part_rows", "<i4", lambda v: v["parts"] + 1),  # rows of equal work
            op.Ends("ends", "<i4", lambda v: count_rows(v) + 1),
            # For each row and eight inputs, which of these have a weight.
            op.Table("masks", "u1", lambda v: count_rows(v) * padded(v["inputs"]) // 8),
            op.Table("weights", "<i2", count_weights),
            op.Count("inputs", most=lambda v: op.MOST_UNITS),
            op.Place("features", op.SCRATCH, lambda v: 2 * padded(v["inputs"])),
            op.Table("scales", "<f4", count_rows),
            op.Table("bias", "<f4", count_rows),
            op.Real("low"),
            op.Real("high"),
        )

    @property
    def name(self) -> str:
        return f"masked_linear_{self.lanes}_{self.bounds}"

    def emit(self, module: ir.Module) -> ir.Function:
        function = ir.Function(module, KERNEL, self.name)
        e = Emitter(function, 1, self)
        features, unit = self._in_16_bits(e)
        target, bias, scales = (e.address(name) for name in ("target", "bias", "scales"))
        low, high = e.real_field("low"), e.real_field("high")
        bounds = e.address("part_rows")
        first, last = (e.load_i32(bounds, e.mul(part, 4)) for part in (e.first, e.last))
        with e.loop(first, last) as row:
            at = e.mul(row, 4)
            scale = e.build.fmul(e.load(scales, F32, at), unit)
            total = e.fma(_Row(e, features, row).total(), scale, e.load(bias, F32, at))
            (total,) = bounded(e, [total], self.bounds, low, high)
            e.store(total, target, at)
        e.finish()
        return function

    def _in_16_bits(self, e: Emitter) -> tuple[ir.Value, ir.Value]:
        """Write the features as numbers of 16 bits, filled up with zeros.

        Returns:
            Their address, and what the number 1 stands for, fp32; NaN if a feature is not finite.
        """
        inputs, source, features = e.field("inputs"), e.address("source"), e.address("features")
        whole = e.build.and_(inputs, number(-self.lanes))
        wide = e.widened(self.lanes)
        pieces = ((wide, number(0), whole), (e, whole, inputs))
        largest, strange = ir.Constant(F32, _LEAST), ir.Constant(F32, 0.0)
        for each, start, stop in pieces:
            zeros = [each.constant(0.0)] * 2
            with each.carrying(start, stop, zeros, each.lanes) as (index, values, following):
                value = each.load_vector(source, e.mul(index, 4))
                following.append(each.largest(values[0], _absolute(each, value)))
                following.append(each.fma(value, zeros[0], values[1]))
            largest = e.largest(largest, _reduced(each, following[0], e.largest))
            strange = e.build.fadd(strange, _reduced(each, following[1], e.build.fadd))
        most = ir.Constant(F32, float(LARGEST_FEATURE))
        factor = e.build.fdiv(most, largest)
        for each, start, stop in pieces:
            with each.loop(start, stop, each.lanes) as index:
                value = each.load_vector(source, e.mul(index, 4))
                value = each.fma(value, each.splat(factor), each.constant(_MAGIC))
                bits = e.build.bitcast(value, vector_type(each.lanes, I32))
                nearest = e.build.trunc(bits, vector_type(each.lanes, I16))
                e.store(nearest, features, e.mul(index, 2), align=2)
        with e.loop(inputs, _padded(e, inputs)) as index:
            e.store(ir.Constant(I16, 0), features, e.mul(index, 2), align=2)
        return features, e.build.fadd(e.build.fdiv(largest, most), strange)


class _Row:
    """The products of one row with the features."""

    def __init__(self, e: Emitter, features: ir.Value, row: ir.Value) -> None:
        self.emit, self.features = e, features
        self.expands = "+avx512vbmi2" in getattr(e.module, "features", "")
        self.step = 32 if self.expands else 16  # inputs of a vector
        self.inputs = _padded(e, e.field("inputs"))
        self.masks = e.at(e.address("masks"), e.mul(row, e.build.udiv(self.inputs, number(8))))
        start = e.load_i32(e.address("ends"), e.mul(row, 4))
        self.weights = e.at(e.address("weights"), e.mul(start, 2))

    def total(self) -> ir.Value:
        e, count = self.emit, self.step // 2
        words, floats = ir.VectorType(I32, count), ir.VectorType(F32, count)
        zeros = [ir.Constant(words, [0] * count)] * (AT_ONCE // self.step)
        none = [ir.Constant(floats, [0.0] * count), number(0)]
        with e.carrying(0, self.inputs, none, SEGMENT) as (first, values, following):
            stop = e.smallest_integer(e.add(first, SEGMENT), self.inputs)
            initial = [*zeros, values[1]]
            with e.carrying(first, stop, initial, AT_ONCE) as (position, sums, after):
                after += self._added(position, sums[:-1], sums[-1])
            parts = [e.build.sitofp(value, floats) for value in after[:-1]]
            while len(parts) > 1:
                parts = [e.build.fadd(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
            following += [e.build.fadd(values[0], parts[0]), after[-1]]
        return _reduced(e.widened(count), following[0], e.build.fadd)

    def _added(self, position: ir.Value, sums: list[ir.Value], place: ir.Value) -> list[ir.Value]:
        """The sums with the products of the inputs from `position` on, and the place of the weight
        that follows theirs."""
        e, build = self.emit, self.emit.build
        e.prefetch(e.at(self.weights, e.add(place, _AHEAD)))
        kind = ir.VectorType(I16, self.step)
        masks = e.at(self.masks, build.lshr(position, number(3)))
        source = e.at(self.features, e.mul(position, 2))
        following = []
        for k, total in enumerate(sums):
            weights, place = self._spread(e.at(masks, k * self.step // 8), place)
            features = e.load(source, kind, 2 * k * self.step, align=2)
            following.append(build.add(total, self._products(weights, features)))
        return [*following, place]

    def _products(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Sums of the products of neighbours, int32."""
        name = "avx512.pmaddw.d.512" if self.expands else "avx2.pmadd.wd"
        kind = ir.FunctionType(ir.VectorType(I32, self.step // 2), [a.type] * 2)
        return self.emit.build.call(self.emit.intrinsic(f"llvm.x86.{name}", kind), [a, b])

    def _spread(self, mask: ir.Value, place: ir.Value) -> tuple[ir.Value, ir.Value]:
        """A vector of weights, those that the bits at `mask` name from `place` on and the others
        zero, and the place of the weight that follows."""
        e, build = self.emit, self.emit.build
        if self.expands:
            bits, kind = e.load(mask, I32, align=1), ir.VectorType(I16, 32)
            found = e.load(e.at(self.weights, place), kind, align=2)
            # By an instruction of its own: one that loads and expands need not be as fast. LLVM
            # would join the two, but does not look behind an assembly instruction.
            same = ir.InlineAsm(ir.FunctionType(kind, [kind]), "", "=v,0")
            found = build.call(same, [found])
            chosen = build.bitcast(bits, ir.VectorType(ir.IntType(1), 32))
            form = ir.FunctionType(kind, [kind, kind, chosen.type])
            expand = e.intrinsic("llvm.x86.avx512.mask.expand.v32i16", form)
            found = build.call(expand, [found, ir.Constant(kind, [0] * 32), chosen])
            return found, _after(e, place, bits)
        halves = []
        for k in range(2):
            bits = e.load(mask, I8, k, align=1)
            halves.append(_spread_eight(e, e.at(self.weights, place), bits))
            place = _after(e, place, bits)
        both = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
        return build.shuffle_vector(*halves, both), place


def _after(e: Emitter, place: ir.Value, mask: ir.Value) -> ir.Value:
    """The place after as many weights as the mask has bits."""
    kind = ir.FunctionType(mask.type, [mask.type])
    count = e.build.call(e.intrinsic(f"llvm.ctpop.i{mask.type.width}", kind), [mask])
    return e.add(place, e.mul(e.build.zext(count, I64), 2))


def _spread_eight(e: Emitter, place: ir.Value, mask: ir.Value) -> ir.Value:
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


def _padded(e: Emitter, inputs: ir.Value) -> ir.Value:
    return e.build.and_(e.add(inputs, AT_ONCE - 1), number(-AT_ONCE))


def _absolute(e: Emitter, value: ir.Value) -> ir.Value:
    suffix = f"v{e.lanes}f32" if e.lanes > 1 else "f32"
    kind = ir.FunctionType(value.type, [value.type])
    return e.build.call(e.intrinsic(f"llvm.fabs.{suffix}", kind), [value])


def _reduced(
    e: Emitter, value: ir.Value, join: Callable[[ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """The numbers of a vector joined to one."""
    width = e.lanes
    while width > 1:
        width //= 2
        value = join(*(vector_part(e, value, half * width, width) for half in (0, 1)))
    return value
