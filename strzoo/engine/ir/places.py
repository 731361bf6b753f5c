"""Layers that only move numbers: how the places of a Rearrange are written down, once for channels
that take the same ones, and the convolution that takes channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from strzoo.engine.ir.graph import Convolution, Linear, Shape, Window
from strzoo.settings import Limits


def describe_places(index: np.ndarray, pixels: int) -> dict[str, Any]:
    """The fields of a Rearrange that takes the numbers at `index` [channels, height, width] of a
    value whose channels have `pixels` numbers each."""
    count, step = _find_period(index, pixels)
    places = np.ascontiguousarray(index[:count])
    return {"places": places, "repeats": len(index) // count, "step": step}


def pick_channels(
    name: str, value: str, output: str, channels: int, chosen: np.ndarray
) -> Convolution:
    """The layer that takes the `chosen` of a map's channels: a 1x1 convolution with a single one in
    each row."""
    Limits.from_env().check("elements", len(chosen) * channels, f"the channels of {name or output}")
    weight = np.zeros((len(chosen), channels, 1, 1), np.float32)
    weight[np.arange(len(chosen)), chosen] = 1
    bias = np.zeros(len(chosen), np.float32)
    return Convolution(name, (value,), output, weight, bias, Window((1, 1)))


def only_moves(layer: Convolution | Linear) -> bool:
    """Whether the layer takes or copies channels, or makes a constant: its zeros save nothing that
    another library would multiply."""
    weight = layer.weight.reshape(len(layer.weight), -1)
    used = weight != 0
    return bool((used.sum(1) <= 1).all() and (weight[used] == 1).all())


def in_order(index: np.ndarray, shape: Shape) -> bool:
    """Whether `index` takes each number of a value of `shape` in turn."""
    return index.size == math.prod(shape) and bool(
        (index.reshape(-1) == np.arange(index.size)).all()
    )


def _find_period(index: np.ndarray, pixels: int) -> tuple[int, int]:
    """After how many channels the numbers at `index` are the same ones some channels further, and
    how many channels that is; all of them if they are never."""
    firsts = index[:, 0, 0]
    for count in range(1, len(index)):
        if len(index) % count:
            continue
        apart = firsts[count] - firsts[0]
        if apart < pixels or apart % pixels:
            continue
        parts = index.reshape(-1, count, *index.shape[1:])
        if (parts == parts[0] + apart * np.arange(len(parts)).reshape(-1, 1, 1, 1)).all():
            return count, int(apart // pixels)
    return len(index), 1
