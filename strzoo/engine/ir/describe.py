"""describe: a graph as text, one line per layer."""

from __future__ import annotations

import math

import numpy as np

from strzoo.engine.ir.graph import Convolution, Graph, Layer, Linear, Shape


def describe(graph: Graph) -> str:
    """Each layer: its name, kind, output shape and inputs; weights and MACs where it has any."""
    lines = [f"{name}: {_size(graph.shapes[name])}" for name in graph.inputs]
    lines += [_describe_layer(layer, graph.shapes) for layer in graph.layers]
    return "\n".join(lines)


def count_macs(layer: Layer, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates by nonzero weights, for one image."""
    if not isinstance(layer, Convolution | Linear):
        return 0
    return int(np.count_nonzero(layer.weight)) * math.prod(shapes[layer.output][1:])


def _describe_layer(layer: Layer, shapes: dict[str, Shape]) -> str:
    kind = type(layer).__name__
    text = f"{layer.name}: {kind} of {', '.join(layer.inputs)} -> {_size(shapes[layer.output])}"
    if isinstance(layer, Convolution | Linear):
        nonzero = int(np.count_nonzero(layer.weight))
        zeros = 100 * (1 - nonzero / max(layer.weight.size, 1))
        text += f", {nonzero} weights ({zeros:.2f} % zeros), {count_macs(layer, shapes)} MACs"
    bounds = getattr(layer, "bounds", None)
    if bounds is None:
        return text
    if not bounds.clamps:
        return f"{text}, {bounds.function}"
    return f"{text}, in [{bounds.low:g}, {bounds.high:g}]"


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))
