"""Layers in 16-bit fixed point: a number q of a channel stands for q * scale of that channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.ir.graph import Convolution, GlobalAveragePool, Graph, Layer, Linear, MaxPool

LARGEST = 32767  # magnitude of a weight, a bias or an input


@dataclass(frozen=True)
class Quantize(Layer):
    """A map in fp32 as fixed point, with scales [channels]."""

    scale: np.ndarray


@dataclass(frozen=True)
class Dequantize(Layer):
    """A map in fixed point, with scales [channels], as fp32."""

    scale: np.ndarray


@dataclass(frozen=True)
class FixedConvolution(Convolution):
    """A convolution of a map in fixed point.

    `weight` is int32, `bias` int16. An input q and a weight w of 16 bits give (q * w + 2^14) >> 15
    units of the output; sums of these saturate. A larger weight is the sum of parts, see
    `split_weights`. `limits`, int16 [out, 2], are the least and the largest result where `bounds`
    are more than a ReLU.
    """

    limits: np.ndarray | None = None


@dataclass(frozen=True)
class FixedLinear(Linear):
    """A fully connected layer of features in fp32 whose weights are int16; a weight w of a row
    stands for w * scale of that row. Their sums are limited, see `masks`."""

    scale: np.ndarray | None = None


@dataclass(frozen=True)
class FixedGlobalAveragePool(GlobalAveragePool):
    """The mean of each plane of a map in fixed point, with scales [channels], in fp32."""

    scale: np.ndarray | None = None


def unfixed(layer: FixedLinear) -> Linear:
    """The same layer with weights in fp32."""
    assert layer.scale is not None
    weight = layer.weight.astype(np.float32) * layer.scale.astype(np.float32)[:, None]
    return Linear(layer.name, layer.inputs, layer.output, weight, layer.bias, layer.bounds)


def split_weights(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of the weights, int32 [n], as the fewest parts of 16 bits that are about equal.

    Returns:
        For each part, the index of its weight, and its value, int16.
    """
    parts = np.maximum(-(-np.abs(weight.astype(np.int64)) // LARGEST), 1)
    index = np.repeat(np.arange(len(weight)), parts)
    number = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
    whole, count = weight[index].astype(np.int64), parts[index]
    # Differences of rounded multiples, so that the parts add up to the weight.
    values = np.abs(whole) * (number + 1) // count - np.abs(whole) * number // count
    return index, (np.sign(whole) * values).astype(np.int16)


def count_parts(weight: np.ndarray) -> int:
    """The parts of all weights that are not zero."""
    return int((-(-np.abs(weight.astype(np.int64)) // LARGEST)).sum())


def fixed_values(graph: Graph) -> set[str]:
    """The values of `graph` that are in fixed point."""
    found: set[str] = set()
    for layer in graph.layers:
        maximum = isinstance(layer, MaxPool) and layer.inputs[0] in found
        if isinstance(layer, Quantize | FixedConvolution) or maximum:
            found.add(layer.output)
    return found
