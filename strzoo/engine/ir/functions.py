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
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x / (1 + exp(-x))",
    "sqrt": "sqrt(x)",
    "tanh": "tanh(x)",
}
# Their results are never negative.
POSITIVE = {"abs", "exp", "hardsigmoid", "sigmoid", "sqrt"}
# x times the first of each pair is the second.
GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
