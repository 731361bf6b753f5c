"""The nonlinearities of FastGRNN by name: values, and slopes as functions of the value.

The piecewise-linear ones are EdgeML's, for arithmetic in integers. Where a gate has a corner its
slope is 0, as torch's `hardtanh` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional

from strzoo.errors import UsageError

Array = NDArray[Any]


@dataclass(frozen=True)
class Kernels:
    """A gate on arrays of one dtype: `apply` in place; `slope(value, out)` writes the derivative
    at the argument that gave `value`."""

    apply: Callable[[Array], object]
    slope: Callable[[Array, Array], object]


@dataclass(frozen=True)
class Gate:
    """One nonlinearity: on tensors, on arrays, and as a C expression of `x`, where REAL, EXP and
    TANH stand for the type and its functions."""

    name: str
    torch: Callable[[Tensor], Tensor]
    kernels: Callable[[DTypeLike], Kernels]
    c: str


def constant(value: float, dtype: DTypeLike) -> Array:
    """A scalar operand for numpy: of no dimension and of the other operand's dtype, which costs
    half of a Python number's conversion."""
    return np.array(value, dtype)


def _sigmoid(dtype: DTypeLike) -> Kernels:
    half = constant(0.5, dtype)

    def apply(x: Array) -> None:
        # (1 + tanh(x / 2)) / 2: numpy's tanh is vectorised, and nothing overflows.
        np.multiply(x, half, x)
        np.tanh(x, x)
        np.multiply(x, half, x)
        np.add(x, half, x)

    def slope(y: Array, out: Array) -> None:
        np.multiply(y, y, out)
        np.subtract(y, out, out)

    return Kernels(apply, slope)


def _tanh(dtype: DTypeLike) -> Kernels:
    one = constant(1.0, dtype)

    def slope(y: Array, out: Array) -> None:
        np.multiply(y, y, out)
        np.subtract(one, out, out)

    return Kernels(lambda x: np.tanh(x, x), slope)


def _relu(dtype: DTypeLike) -> Kernels:
    zero = constant(0.0, dtype)
    return Kernels(
        lambda x: np.maximum(x, zero, out=x), lambda y, out: np.greater(y, zero, out=out)
    )


def _quant_tanh(dtype: DTypeLike) -> Kernels:
    low, one = constant(-1.0, dtype), constant(1.0, dtype)

    def apply(x: Array) -> None:
        np.minimum(x, one, out=x)
        np.maximum(x, low, out=x)

    def slope(y: Array, out: Array) -> None:
        np.absolute(y, out)
        np.less(out, one, out=out)

    return Kernels(apply, slope)


def _ramp(reach: float) -> Callable[[DTypeLike], Kernels]:
    """clip((x + reach) / (2 reach), 0, 1)."""

    def build(dtype: DTypeLike) -> Kernels:
        shift, scale = constant(reach, dtype), constant(1 / (2 * reach), dtype)
        zero, half, one = (constant(value, dtype) for value in (0.0, 0.5, 1.0))

        def apply(x: Array) -> None:
            np.add(x, shift, x)
            np.multiply(x, scale, x)
            np.minimum(x, one, out=x)
            np.maximum(x, zero, out=x)

        def slope(y: Array, out: Array) -> None:
            np.subtract(y, half, out)
            np.absolute(out, out)
            np.less(out, half, out=out)
            np.multiply(out, scale, out)

        return Kernels(apply, slope)

    return build


def _c_ramp(reach: int) -> str:
    return f"x <= -{reach} ? 0 : x >= {reach} ? 1 : (x + {reach}) / {2 * reach}"


def _quant_sigm(x: Tensor) -> Tensor:
    return functional.hardtanh((x + 1) / 2, 0.0, 1.0)


def _quant_sigm4(x: Tensor) -> Tensor:
    return functional.hardtanh((x + 2) / 4, 0.0, 1.0)


GATES = {
    gate.name: gate
    for gate in (
        Gate("sigmoid", torch.sigmoid, _sigmoid, "1 / (1 + EXP(-x))"),
        Gate("tanh", torch.tanh, _tanh, "TANH(x)"),
        Gate("relu", torch.relu, _relu, "x > 0 ? x : 0"),
        Gate("quantTanh", functional.hardtanh, _quant_tanh, "x < -1 ? -1 : x > 1 ? 1 : x"),
        Gate("quantSigm", _quant_sigm, _ramp(1.0), _c_ramp(1)),
        Gate("quantSigm4", _quant_sigm4, _ramp(2.0), _c_ramp(2)),
    )
}


def find_gate(name: str) -> Gate:
    """The gate of that name.

    Raises:
        UsageError: there is none; the names are listed.
    """
    if name not in GATES:
        raise UsageError(f"nonlinearity {name!r} is not one of {', '.join(GATES)}")
    return GATES[name]
