"""Fuses ReLU, ReLU6 and clips into the layer before them."""

from __future__ import annotations

import dataclasses

from strzoo.engine.ir.graph import Add, Affine, Bounds, Clamp, Convolution, Graph, Layer, Linear
from strzoo.engine.passes.rewriting import count_uses, rebuild


def fuse_bounds(graph: Graph) -> Graph:
    """The graph with every Clamp fused whose input nothing else reads."""
    uses = count_uses(graph)
    made: dict[str, Layer] = {}
    renamed: dict[str, str] = {}
    for layer in graph.layers:
        if isinstance(layer, Clamp):
            source = renamed.get(layer.inputs[0], layer.inputs[0])
            before = made.get(source)
            if (
                isinstance(before, Add | Affine | Clamp | Convolution | Linear)
                and uses[layer.inputs[0]] == 1
            ):
                bounds = merge_bounds(before.bounds or Bounds(), layer.bounds)
                made[source] = dataclasses.replace(before, bounds=bounds)
                renamed[layer.output] = source
                continue
        made[layer.output] = layer
    return rebuild(graph, made.values(), renamed)


def merge_bounds(first: Bounds, second: Bounds) -> Bounds:
    """The bounds that have the effect of clamping by `first`, then by `second`."""
    low = min(max(first.low, second.low), second.high)
    high = min(max(first.high, second.low), second.high)
    return Bounds(low, high)
