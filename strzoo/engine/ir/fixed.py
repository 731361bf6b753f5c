"""Layers in 16-bit fixed point: a number q of a channel stands for q * scale of that channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.ir.graph import Convolution, GlobalAveragePool, Graph, Layer, MaxPool


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

    `weight` and `bias` are int16. An input q and a weight w give (q * w + 2^14) >> 15 units of the
    output; sums of these saturate. `limits`, int16 [out, 2], are the least and the largest result
    where `bounds` are more than a ReLU.
    """

    limits: np.ndarray | None = None


@dataclass(frozen=True)
class FixedGlobalAveragePool(GlobalAveragePool):
    """The mean of each plane of a map in fixed point, with scales [channels], in fp32."""

    scale: np.ndarray | None = None


def fixed_values(graph: Graph) -> set[str]:
    """The values of `graph` that are in fixed point."""
    found: set[str] = set()
    for layer in graph.layers:
        maximum = isinstance(layer, MaxPool) and layer.inputs[0] in found
        if isinstance(layer, Quantize | FixedConvolution) or maximum:
            found.add(layer.output)
    return found
