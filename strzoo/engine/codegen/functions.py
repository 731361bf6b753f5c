"""Functions of vectors of fp32: the activations that `ir.functions` names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llvmlite import ir

from strzoo.engine.codegen.builder import I32, Emitter, vector_type
from strzoo.engine.ir.functions import FUNCTIONS

LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693145751953125, 1.4286068203094173e-06
# Added to a small number, it leaves the nearest whole number in the low bits.
_ROUNDING = 1.5 * 2**23
# exp(r) for |r| <= log(2) / 2 by its Taylor series: the first term left out is below 2e-7.
_EXP = tuple(1.0 / math.factorial(power) for power in range(6, -1, -1))
# erf(x) / x as a quotient of polynomials in x^2, the highest power first, for |x| <= 3.9. Beyond
# that, erf(x) is 1 in fp32. Fitted for the least largest error of erf: 1.5e-8, and 3.2e-7 with the
# rounding of fp32. GELU takes half the time that it takes by a series with an exponential.
_ERF_END = 3.9
_ERF_OVER = (
    2.05028355e-06, 0.000287439974, 0.00383661041, 0.0529661088, 0.191936376, 1.12837903,
)  # fmt: skip
_ERF_UNDER = (
    3.82287435e-05, 0.00118164782, 0.0151086993, 0.114756102, 0.503430967, 1.0,
)  # fmt: skip
# The least normal number, and the bits of sqrt(1/2).
_NORMAL, _ROOT_BITS = 2.0**-126, 0x3F3504F3
_CUBIC = 0.044715  # of GELU approximated by tanh
_SQRT_HALF = 0.7071067811865476
# Those that take more steps than a few.
LONG = frozenset(FUNCTIONS) - {"abs", "hardsigmoid", "hardswish", "leaky", "over", "sqrt"}


def apply(e: Emitter, function: str, x: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """The function of a vector; `a` and `b` are vectors of its parameters."""
    made: ir.Value = _Functions(e).apply(function, x, a, b)
    return made


class _Functions:
    def __init__(self, e: Emitter) -> None:
        self.e, self.build = e, e.build
        self.one, self.zero = e.constant(1.0), e.constant(0.0)

    def apply(self, function: str, x: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        build = self.build
        if function in ("hardsigmoid", "hardswish"):
            line = self.e.largest(self.e.fma(a, x, b), self.zero)
            gate = self.e.smallest(line, self.one)
            return gate if function == "hardsigmoid" else build.fmul(x, gate)
        if function == "leaky":
            return self.where_positive(x, build.fmul(a, x))
        if function == "elu":
            return self.where_positive(x, build.fmul(a, build.fsub(self.exp(x), self.one)))
        if function in ("sigmoid", "silu"):
            over = self.one if function == "sigmoid" else x
            return build.fdiv(over, build.fadd(self.one, self.exp(self.negative(x))))
        if function == "gelu":
            erf = self.erf(build.fmul(x, self.e.constant(_SQRT_HALF)))
            half = build.fmul(x, self.e.constant(0.5))
            return self.e.fma(half, erf, half)
        if function == "abs":
            return self.intrinsic("fabs", x)
        if function == "sqrt":
            return self.intrinsic("sqrt", x)
        if function == "over":
            return build.fdiv(a, x)
        if function == "power":
            return self.power(x, a, b)
        made: ir.Value = {
            "erf": self.erf,
            "exp": self.exp,
            "log": self.log,
            "mish": self.mish,
            "softplus": self.softplus,
            "softsign": self.softsign,
            "tanh": self.tanh,
            "tanhgelu": self.tanhgelu,
        }[function](x)
        return made

    def exp(self, x: ir.Value) -> ir.Value:
        """The exponential as 2^n * e^r, within the range of normal numbers."""
        e, build = self.e, self.build
        x = e.smallest(e.largest(x, e.constant(-87.0)), e.constant(88.0))
        shifted = e.fma(x, e.constant(LOG2E), e.constant(_ROUNDING))
        n = build.fsub(shifted, e.constant(_ROUNDING))
        r = e.fma(n, e.constant(-LN2_HIGH), x)
        r = e.fma(n, e.constant(-LN2_LOW), r)
        result = self.polynomial(r, _EXP)
        bits = build.shl(build.bitcast(shifted, self.integers), self.whole(23))
        power = build.add(bits, self.whole(127 << 23))
        return build.fmul(result, build.bitcast(power, vector_type(e.width)))

    def erf(self, x: ir.Value) -> ir.Value:
        build = self.build
        x = self.clamped(x, _ERF_END)
        square = build.fmul(x, x)
        over, under = (self.polynomial(square, terms) for terms in (_ERF_OVER, _ERF_UNDER))
        return self.clamped(build.fdiv(build.fmul(x, over), under), 1.0)

    def clamped(self, x: ir.Value, limit: float) -> ir.Value:
        e = self.e
        return e.smallest(e.largest(x, e.constant(-limit)), e.constant(limit))

    def polynomial(self, x: ir.Value, factors: Sequence[float]) -> ir.Value:
        """The factor of the highest power of x is the first."""
        result: ir.Value = self.e.constant(factors[0])
        for factor in factors[1:]:
            result = self.e.fma(result, x, self.e.constant(factor))
        return result

    def tanh(self, x: ir.Value) -> ir.Value:
        build = self.build
        power = self.exp(build.fadd(x, x))
        rest = build.fdiv(self.e.constant(2.0), build.fadd(power, self.one))
        return build.fsub(self.one, rest)

    def tanhgelu(self, x: ir.Value) -> ir.Value:
        """x * sigmoid(2 u), which is x / 2 * (1 + tanh(u))."""
        e, build = self.e, self.build
        cubic = e.fma(build.fmul(x, x), e.constant(_CUBIC), self.one)
        twice = build.fmul(build.fmul(x, cubic), e.constant(-2 * math.sqrt(2 / math.pi)))
        return build.fdiv(x, build.fadd(self.one, self.exp(twice)))

    def softsign(self, x: ir.Value) -> ir.Value:
        return self.build.fdiv(x, self.build.fadd(self.one, self.intrinsic("fabs", x)))

    def softplus(self, x: ir.Value) -> ir.Value:
        """max(x, 0) + log(1 + p) with p = exp(-|x|). What rounding 1 + p to w has lost of a small p
        is given back: log(w) * p / (w - 1)."""
        build = self.build
        power = self.exp(self.negative(self.intrinsic("fabs", x)))
        whole = build.fadd(self.one, power)
        kept = build.fsub(whole, self.one)
        exact = build.fmul(self.log(whole), build.fdiv(power, kept))
        lost = build.fcmp_ordered("==", kept, self.zero)
        return build.fadd(self.e.largest(x, self.zero), build.select(lost, power, exact))

    def mish(self, x: ir.Value) -> ir.Value:
        """With n = exp(x) * (exp(x) + 2), x * n / (n + 2)."""
        e, build = self.e, self.build
        power = self.exp(e.smallest(x, e.constant(20.0)))  # from there on it is x
        n = build.fmul(power, build.fadd(power, e.constant(2.0)))
        return build.fmul(x, build.fdiv(n, build.fadd(n, e.constant(2.0))))

    def log(self, x: ir.Value) -> ir.Value:
        """By 2 * artanh((m - 1) / (m + 1)) of the fraction m of x, sqrt(1/2) <= m < sqrt(2)."""
        e, build = self.e, self.build
        small = build.fcmp_ordered("<", x, e.constant(_NORMAL))
        scaled = build.select(small, build.fmul(x, e.constant(2.0**23)), x)
        bits = build.bitcast(scaled, self.integers)
        # Counted from the bits of sqrt(1/2), the exponent is that of such a fraction.
        apart = build.sub(bits, self.whole(_ROOT_BITS))
        power = build.ashr(apart, self.whole(23))
        fraction = build.sub(bits, build.shl(power, self.whole(23)))
        m = build.bitcast(fraction, vector_type(e.width))
        exponent = build.sitofp(power, vector_type(e.width))
        less = build.select(small, e.constant(-23.0), self.zero)
        exponent = build.fadd(exponent, less)
        s = build.fdiv(build.fsub(m, self.one), build.fadd(m, self.one))
        square, series = build.fmul(s, s), e.constant(2 / 9)
        for divisor in (7, 5, 3, 1):
            series = e.fma(series, square, e.constant(2 / divisor))
        low = e.fma(s, series, build.fmul(exponent, e.constant(LN2_LOW)))
        made = e.fma(exponent, e.constant(LN2_HIGH), low)
        infinite = e.constant(float("inf"))
        made = build.select(build.fcmp_ordered("==", x, infinite), x, made)
        made = build.select(build.fcmp_ordered("==", x, self.zero), self.negative(infinite), made)
        wrong = build.fcmp_unordered("<", x, self.zero)
        return build.select(wrong, e.constant(float("nan")), made)

    def power(self, x: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        e, build = self.e, self.build
        infinite, nan = e.constant(float("inf")), e.constant(float("nan"))
        sign = build.and_(build.bitcast(x, self.integers), self.whole(-(2**31)))
        exponent = build.fmul(a, self.log(self.intrinsic("fabs", x)))
        made = self.exp(exponent)
        made = build.select(build.fcmp_ordered(">", exponent, e.constant(88.0)), infinite, made)
        made = build.select(build.fcmp_ordered("<", exponent, e.constant(-87.0)), self.zero, made)
        odd = build.fcmp_ordered("==", b, self.one)
        whole = build.fcmp_ordered("!=", b, self.zero)
        below = build.fcmp_ordered("<", x, self.zero)
        below = build.and_(below, build.fcmp_ordered(">", x, self.negative(infinite)))
        signed = build.or_(build.bitcast(made, self.integers), sign)
        signed = build.bitcast(signed, vector_type(e.width))
        other = build.select(build.and_(below, build.not_(whole)), nan, made)
        made = build.select(odd, signed, other)
        return build.select(build.fcmp_unordered("uno", x, x), x, made)

    def where_positive(self, x: ir.Value, other: ir.Value) -> ir.Value:
        return self.build.select(self.build.fcmp_ordered(">", x, self.zero), x, other)

    def negative(self, x: ir.Value) -> ir.Value:
        return self.build.fsub(self.e.constant(-0.0), x)

    def intrinsic(self, name: str, x: ir.Value) -> ir.Value:
        suffix = f"v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "f32"
        kind = ir.FunctionType(x.type, [x.type])
        return self.build.call(self.e.intrinsic(f"llvm.{name}.{suffix}", kind), [x])

    @property
    def integers(self) -> ir.Type:
        return I32 if self.e.width == 1 else ir.VectorType(I32, self.e.width)

    def whole(self, value: int) -> ir.Constant:
        width = self.e.width
        return ir.Constant(self.integers, value if width == 1 else [value] * width)
