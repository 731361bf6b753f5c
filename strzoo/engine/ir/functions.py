"""Functions of single values that `Bounds` names, with their parameters `low` and `high`."""

from __future__ import annotations

# What each computes of x; a is `low`, b is `high`.
FUNCTIONS = {
    "abs": "|x|",
    "elu": "x if x > 0 else a * (exp(x) - 1)",
    "erf": "the error function",
    "exp": "exp(x)",
    "gelu": "x / 2 * (1 + erf(x / sqrt(2)))",
    "hardsigmoid": "min(max(a * x + b, 0), 1)",
    "hardswish": "x * min(max(a * x + b, 0), 1)",
    "leaky": "x if x > 0 else a * x",
    "log": "the natural logarithm",
    "mish": "x * tanh(log(1 + exp(x)))",
    "over": "a / x",
    "power": "x to the power of a; b is 1 if a is odd, 2 if it is even, 0 if it is not whole",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x / (1 + exp(-x))",
    "softplus": "log(1 + exp(x))",
    "softsign": "x / (1 + |x|)",
    "sqrt": "sqrt(x)",
    "tanh": "tanh(x)",
    "tanhgelu": "x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))",
}
# Their results are never negative.
POSITIVE = {"abs", "exp", "hardsigmoid", "sigmoid", "softplus", "sqrt"}
# x times the first of each pair is the second.
GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
