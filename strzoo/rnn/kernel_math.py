"""The arithmetic of the compiled steps: fp32 operations and nonlinearities, emitted for LLVM."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llvmlite import ir


class Arithmetic:
    """Emits operations on fp32 values at the position of `build`."""

    build: ir.IRBuilder

    def __init__(self) -> None:
        from llvmlite import ir

        self.ir = ir
        self.f32, self.i64 = ir.FloatType(), ir.IntType(64)

    def number(self, value: float) -> Any:
        """A constant."""
        return self.ir.Constant(self.f32, value)

    def add(self, a: Any, b: Any) -> Any:
        return self.build.fadd(a, b, flags=("contract",))

    def subtract(self, a: Any, b: Any) -> Any:
        return self.build.fsub(a, b, flags=("contract",))

    def times(self, a: Any, b: Any) -> Any:
        return self.build.fmul(a, b, flags=("contract",))

    def affine(self, x: Any, scale: float, shift: float) -> Any:
        """scale x + shift."""
        return self.add(self.times(x, self.number(scale)), self.number(shift))

    def clip(self, x: Any, low: float, high: float) -> Any:
        """x within bounds; NaN stays NaN, since both comparisons are false."""
        for sign, bound in (("<", low), (">", high)):
            limit = self.number(bound)
            x = self.build.select(self.build.fcmp_ordered(sign, x, limit), limit, x)
        return x

    def where_below(self, x: Any, bound: float, value: float) -> Any:
        """`value` where |x| < bound, else 0."""
        inside = self.build.fcmp_ordered("<", self.absolute(x), self.number(bound))
        return self.build.select(inside, self.number(value), self.number(0.0))

    def absolute(self, x: Any) -> Any:
        """|x|."""
        negative = self.build.fcmp_ordered("<", x, self.number(0.0))
        return self.build.select(negative, self.build.fneg(x), x)

    def expm1(self, x: Any) -> Any:
        """e^x - 1 with its relative accuracy kept near 0, for |x| < 88.

        e^x = 2^n e^r with n the nearest integer to x / ln 2; e^r - 1 is its Taylor series up to
        r^7, which is exact to fp32 for |r| <= ln 2 / 2. Adding 3 * 2^22 rounds to an integer, which
        then stands in the lowest bits.
        """
        build, magic = self.build, 3.0 * 2**22
        shifted = self.affine(x, _round(1 / math.log(2)), magic)
        n = build.fsub(shifted, self.number(magic))
        high = 0.693359375  # of ln 2, few bits: the product with n is exact
        r = self.subtract(x, self.times(n, self.number(high)))
        r = self.subtract(r, self.times(n, self.number(_round(math.log(2) - high))))
        series = self.number(_round(1 / math.factorial(7)))
        for power in range(6, 0, -1):
            series = self.add(self.times(series, r), self.number(_round(1 / math.factorial(power))))
        series = self.times(series, r)
        i32 = self.ir.IntType(32)
        bits = build.shl(build.bitcast(shifted, i32), self.ir.Constant(i32, 23))
        power_of_2 = build.bitcast(build.add(bits, self.ir.Constant(i32, 127 << 23)), self.f32)
        return self.add(self.times(power_of_2, series), self.add(power_of_2, self.number(-1.0)))

    def divide(self, a: Any, b: Any) -> Any:
        return self.build.fdiv(a, b)


def _round(value: float) -> float:
    """The nearest fp32 number, which is what LLVM accepts as a constant of that type."""
    return ctypes.c_float(value).value


# The bound of an exponent: the product of two such denominators is still a number of fp32.
_FAR = 40.0


def _sigmoid(f: Arithmetic, x: Any) -> tuple[Any, Any]:
    opposite = f.clip(f.build.fneg(x), -_FAR, _FAR)
    return f.number(1.0), f.affine(f.expm1(opposite), 1.0, 2.0)


def _tanh(f: Arithmetic, x: Any) -> tuple[Any, Any]:
    less = f.expm1(f.clip(f.affine(x, 2.0, 0.0), -_FAR, _FAR))
    return less, f.affine(less, 1.0, 2.0)


def _ramp(f: Arithmetic, x: Any, reach: float) -> Any:
    return f.clip(f.affine(x, 1 / (2 * reach), 0.5), 0.0, 1.0)


_Emitter = Callable[[Arithmetic, Any], Any]
# Numerator and denominator, of the gates that are a fraction.
FRACTIONS: dict[str, Callable[[Arithmetic, Any], tuple[Any, Any]]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
}
GATES: dict[str, _Emitter] = {
    "relu": lambda f, x: f.clip(x, 0.0, math.inf),
    "quantTanh": lambda f, x: f.clip(x, -1.0, 1.0),
    "quantSigm": lambda f, x: _ramp(f, x, 1.0),
    "quantSigm4": lambda f, x: _ramp(f, x, 2.0),
}
SLOPES: dict[str, _Emitter] = {
    "sigmoid": lambda f, y: f.subtract(y, f.times(y, y)),
    "tanh": lambda f, y: f.subtract(f.number(1.0), f.times(y, y)),
    "relu": lambda f, y: f.build.select(
        f.build.fcmp_ordered(">", y, f.number(0.0)), f.number(1.0), f.number(0.0)
    ),
    "quantTanh": lambda f, y: f.where_below(y, 1.0, 1.0),
    "quantSigm": lambda f, y: f.where_below(f.affine(y, 1.0, -0.5), 0.5, 0.5),
    "quantSigm4": lambda f, y: f.where_below(f.affine(y, 1.0, -0.5), 0.5, 0.25),
}
