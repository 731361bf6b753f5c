"""Layers in 8 bits: four input channels share a word of 32 bits, which one dot product takes.

A number u of a map, from 0 to 255, stands for (u - zero) * scale; scale and zero are the map's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.ir.graph import Convolution, GlobalAveragePool, Graph, Layer, MaxPool

QUAD = 4  # channels of a word
MIDDLE = 128  # the zero of maps that have negative values


@dataclass(frozen=True)
class QuantizeQuads(Layer):
    """A map in fp32 as numbers of 8 bits.

    With `parts`, which are for the network's input, each square of two by two pixels becomes one:
    number k of it is the pixel (channel, row, column) of the square that `parts[k]` names.
    """

    scale: float
    zero: int
    parts: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class DequantizeQuads(Layer):
    """A map in 8 bits as fp32."""

    scale: float
    zero: int


@dataclass(frozen=True)
class QuadConvolution(Convolution):
    """A convolution of a map in 8 bits.

    Of the sum s of all products and the bias comes s * scales[row] + residual * residual_scale +
    shift, rounded to the nearest number from 0 to 255 (0 stands for 0 behind a ReLU). `weight` is
    int8, `bias` int32, `scales` fp32 [out]; `source_zero` and `zero` belong to input and output.
    """

    scales: np.ndarray | None = None
    residual_scale: float = 0.0
    shift: float = 0.0
    source_zero: int = 0
    zero: int = 0


@dataclass(frozen=True)
class QuadGlobalAveragePool(GlobalAveragePool):
    """The mean of each channel of a map in 8 bits, in fp32."""

    scale: float = 1.0
    zero: int = 0


def count_quads(channels: int) -> int:
    """The words that so many channels take; the last one may have channels that are not used."""
    return -(-channels // QUAD)


def find_quads(weight: np.ndarray) -> np.ndarray:
    """Whether any of the weights of each quad is not zero: bool [out, quads, height, width]."""
    starts = np.arange(0, weight.shape[1], QUAD)
    living: np.ndarray = np.logical_or.reduceat(weight != 0, starts, axis=1)
    return living


def quad_zeros(graph: Graph) -> dict[str, int]:
    """The values of `graph` that are in 8 bits, and their zeros."""
    found: dict[str, int] = {}
    for layer in graph.layers:
        if isinstance(layer, QuantizeQuads | QuadConvolution):
            found[layer.output] = layer.zero
        elif isinstance(layer, MaxPool) and layer.inputs[0] in found:
            found[layer.output] = found[layer.inputs[0]]
    return found


def zero_word(zero: int) -> float:
    """The fp32 number whose bits are four times `zero`, which places that are no pixels hold."""
    return float(np.array([0x01010101 * zero], np.uint32).view(np.float32)[0])
