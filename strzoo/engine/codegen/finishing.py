"""The last operations on results: bounds, and zeros where there is no pixel."""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir

from strzoo.engine.codegen.builder import BYTES, F32, Emitter, inner_function
from strzoo.engine.codegen.functions import LONG, apply
from strzoo.engine.ir.functions import FUNCTIONS

# Vectors that a function is computed for at once: each step waits for the one before, the others'
# steps do not. A power of two.
TOGETHER = 4
_WORKING = 8  # registers that they need beside those of the values


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
        made: list[ir.Value] = []
        for start, count in _groups(len(values)):
            wide, group = e.widened(count), values[start : start + count]
            x, a, b = wide.joined(group), wide.splat(low), wide.splat(high)
            made += wide.parted(apply(wide, bounds, x, a, b), count)
        return made
    return values


def _groups(count: int) -> Iterator[tuple[int, int]]:
    """Starts and sizes of groups of powers of two, up to `TOGETHER`."""
    start, size = 0, TOGETHER
    while start < count:
        while size > count - start:
            size //= 2
        yield start, size
        start += size


def store_bounded(
    e: Emitter,
    values: list[ir.Value],
    target: ir.Value,
    bounds: str,
    low: ir.Value,
    high: ir.Value,
    mask: ir.Value | None,
) -> None:
    """Store the values with their bounds next to each other, from the address `target` on.

    A long function of many values is computed where they are stored: it needs the registers that
    the values are in.

    Args:
        mask: the address of the masks of all, where there are any.
    """
    step = 4 * e.lanes
    apart = bounds in LONG and not e.fixed and len(values) + _WORKING > e.registers
    if not apart:
        values = bounded(e, values, bounds, low, high)
        if mask is not None:
            values = masked_all(e, values, mask)
    for j, value in enumerate(values):
        e.store(value, target, step * j)
    if apart:
        function = _finish_function(e, len(values), bounds, masked=mask is not None)
        e.build.call(function, [target, target if mask is None else mask, low, high])


def _finish_function(e: Emitter, count: int, bounds: str, *, masked: bool) -> ir.Function:
    """The function that gives `count` stored vectors their bounds, made once per module."""
    name = f"finish_{e.lanes}x{count}_{bounds}{'m' * masked}"
    kind = ir.FunctionType(ir.VoidType(), [BYTES, BYTES, F32, F32])
    function, new = inner_function(e.module, name, kind)
    if not new:
        return function
    target, mask, low, high = function.args
    inner, step = Emitter(function, e.lanes), 4 * e.lanes
    for start, size in _groups(count):
        places = [step * j for j in range(start, start + size)]
        values = [inner.load_vector(target, place) for place in places]
        values = bounded(inner, values, bounds, low, high)
        if masked:
            values = masked_all(inner, values, inner.at(mask, step * start))
        for value, place in zip(values, places, strict=True):
            inner.store(value, target, place)
    inner.finish()
    return function


def masked_all(e: Emitter, values: list[ir.Value], mask: ir.Value) -> list[ir.Value]:
    """`masked` for vectors next to each other, their masks from the address `mask` on."""
    step = 4 * e.lanes
    return [masked(e, value, e.load_vector(mask, step * j)) for j, value in enumerate(values)]


def masked(e: Emitter, value: ir.Value, mask: ir.Value) -> ir.Value:
    """The value where the mask's bits are ones, else zero."""
    bits = ir.VectorType(ir.IntType(32), e.lanes)
    both = e.build.and_(e.build.bitcast(value, bits), e.build.bitcast(mask, bits))
    return e.build.bitcast(both, value.type)
