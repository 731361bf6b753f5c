"""FastGRNN in plain numpy, after the equations of the paper: for complex numbers too.

The imaginary part of f(x + ih) / h is the exact derivative of f at x for a tiny h: no backward pass
is shared with, or resembles, the one under test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
STEP = 1e-40


def _clip(x: Array, low: float, high: float) -> Array:
    inside = (x.real > low) & (x.real < high)
    return np.where(inside, x, np.clip(x.real, low, high))


GATES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.where(x.real > 0, x, 0),
    "quantTanh": lambda x: _clip(x, -1, 1),
    "quantSigm": lambda x: _clip((x + 1) / 2, 0, 1),
    "quantSigm4": lambda x: _clip((x + 2) / 4, 0, 1),
}


def _matrix(p: Mapping[str, Array], side: str) -> Array:
    if side in p:
        return p[side]
    first = p[f"{side}1"]
    if f"m_{side}" in p:
        m, threshold = p[f"m_{side}"], np.exp(p[f"s_{side}"][0, 0])
        size = np.where(m.real < 0, -m, m)  # |m|, analytically
        soft = np.where(m.real < 0, -1, 1) * np.where(size.real > threshold.real,
                                                      size - threshold, 0)  # fmt: skip
        first = first @ np.diag(soft)
    return first @ p[f"{side}2"]


def step(p: Mapping[str, Array], x: Array, h: Array, gate: str, update: str) -> Array:
    """h' [B, H] from x [B, in] and h [B, H]."""
    a = x @ _matrix(p, "W") + h @ _matrix(p, "U")
    z, c = GATES[gate](a + p["bias_gate"]), GATES[update](a + p["bias_update"])
    sigmoid = GATES["sigmoid"]
    return z * h + (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * c


def run(p: Mapping[str, Array], x: Array, h: Array, gate: str, update: str) -> Array:
    """States [T, B, H] of [T, B, in]."""
    states = []
    for one in x:
        h = step(p, one, h, gate, update)
        states.append(h)
    return np.stack(states)


def gradient(function: Callable[[Array], Array], x: Array) -> Array:
    """Of a real scalar function, by the complex step, element by element."""
    found = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        moved = x.astype(complex)
        moved[index] += 1j * STEP
        found[index] = function(moved).imag / STEP
    return found
