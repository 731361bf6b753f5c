"""Functions that add up the products of sparse rows and note how large the sums become on the way.

    void add_exactly(rows, pixels, ends, weights, places, given, starts, sums, peaks)
    void add_in_units(the same)

Calibration uses them to try scales. Row r has the entries [ends[r], ends[r + 1]) (i64). An entry
multiplies its weight with the numbers of row places[entry] (i64) of `given`, [places, pixels].
They are added in their order to starts[r] and stored in `sums`, [rows, pixels]; `peaks`,
[rows, LANES], gets the largest magnitudes after any entry. There are LANES or a multiple of them of
pixels. `add_exactly` works in f64. `add_in_units` has weights and numbers of 16 bits in i32, whose
product is (a * b + 2^14) >> 15 as in fixed point, and sums in i64, which do not saturate.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from strzoo.engine.codegen.builder import BYTES, I32, I64, Emitter, vector_type

EXACT, UNITS = "add_exactly", "add_in_units"
LANES = 8
_F64 = ir.DoubleType()
_Product = Callable[[Emitter, ir.Value, ir.Value], ir.Value]


def emit_sums(module: ir.Module) -> None:
    """Write both to `module`."""
    _emit(module, EXACT, _F64, _F64, lambda e, a, b: e.build.fmul(a, b))
    _emit(module, UNITS, I32, I64, _product_in_units)


def _emit(
    module: ir.Module, name: str, given_type: ir.Type, kind: ir.Type, product: _Product
) -> None:
    arguments = [I64, I64, *[BYTES] * 7]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    rows, pixels, ends, weights, places, given, starts, sums, peaks = function.args
    e = Emitter(function, LANES)
    size = 4 if given_type is I32 else 8
    vector = vector_type(LANES, kind)
    zero = ir.Constant(vector, None)
    with e.loop(0, rows) as row:
        word = e.mul(row, 8)
        first, last = e.load(ends, I64, word), e.load(ends, I64, e.add(word, 8))
        start = e.splat(e.load(starts, kind, word))
        with e.carrying(0, pixels, [zero], LANES) as (pixel, (peak,), after):
            with e.carrying(first, last, [start, peak]) as (entry, (sum_, most), following):
                weight = e.splat(e.load(weights, given_type, e.mul(entry, size)))
                place = e.add(e.mul(e.load(places, I64, e.mul(entry, 8)), pixels), pixel)
                seen = e.load(given, vector_type(LANES, given_type), e.mul(place, size))
                sum_ = _add(e, sum_, product(e, seen, weight))
                following += [sum_, _larger(e, most, sum_)]
            e.store(following[0], sums, e.mul(e.add(e.mul(row, pixels), pixel), 8))
            after.append(following[1])
        e.store(after[0], peaks, e.mul(row, 8 * LANES))
    e.finish()


def _product_in_units(e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    build = e.build
    half, bits = (ir.Constant(a.type, [value] * LANES) for value in (1 << 14, 15))
    units = build.ashr(build.add(build.mul(a, b), half), bits)
    return build.sext(units, vector_type(LANES, I64))


def _add(e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.build.add(a, b) if a.type.element is I64 else e.build.fadd(a, b)


def _larger(e: Emitter, most: ir.Value, value: ir.Value) -> ir.Value:
    """The larger of `most` and the magnitude of `value`."""
    build = e.build
    if value.type.element is I64:
        for each in (value, build.neg(value)):
            most = build.select(build.icmp_signed(">", each, most), each, most)
        return most
    magnitude = e.intrinsic(f"llvm.fabs.v{LANES}f64", ir.FunctionType(value.type, [value.type]))
    size = build.call(magnitude, [value])
    return build.select(build.fcmp_ordered(">", size, most), size, most)
