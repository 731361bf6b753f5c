"""The last operations on results: bounds, and zeros where there is no pixel."""

from __future__ import annotations

from llvmlite import ir

from strzoo.engine.codegen.builder import Emitter
from strzoo.engine.codegen.functions import apply
from strzoo.engine.ir.functions import FUNCTIONS


def bounded(
    e: Emitter, values: list[ir.Value], bounds: str, low: ir.Value, high: ir.Value
) -> list[ir.Value]:
    """The values clamped: "none", "relu" (at least zero) or "clamp" (between low and high); or
    another function of them, with the parameters low and high."""
    if bounds == "relu":
        return [e.largest(value, e.constant(0.0)) for value in values]
    if bounds == "clamp":
        lowest, highest = e.splat(low), e.splat(high)
        return [e.smallest(e.largest(value, lowest), highest) for value in values]
    if bounds in FUNCTIONS and not e.fixed:  # fixed point has none of them
        a, b = e.splat(low), e.splat(high)
        return [apply(e, bounds, value, a, b) for value in values]
    return values


def masked_all(e: Emitter, values: list[ir.Value], mask: ir.Value) -> list[ir.Value]:
    """`masked` for vectors next to each other, their masks from the address `mask` on."""
    step = 4 * e.lanes
    return [masked(e, value, e.load_vector(mask, step * j)) for j, value in enumerate(values)]


def masked(e: Emitter, value: ir.Value, mask: ir.Value) -> ir.Value:
    """The value where the mask's bits are ones, else zero."""
    bits = ir.VectorType(ir.IntType(32), e.lanes)
    both = e.build.and_(e.build.bitcast(value, bits), e.build.bitcast(mask, bits))
    return e.build.bitcast(both, value.type)
