"""Fuses ReLU, ReLU6 and clips into the layer before them."""

from __future__ import annotations

import dataclasses

from strzoo.engine.ir.graph import (
    Add,
    Affine,
    Bounds,
    Clamp,
    Combine,
    Convolution,
    Graph,
    Layer,
    Linear,
    Normalize,
)
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
                isinstance(
                    before, Add | Affine | Clamp | Combine | Convolution | Linear | Normalize
                )
                and uses[layer.inputs[0]] == 1
                and (bounds := merge_bounds(before.bounds or Bounds(), layer.bounds)) is not None
            ):
                made[source] = dataclasses.replace(before, bounds=bounds)
                renamed[layer.output] = source
                continue
        made[layer.output] = layer
    return rebuild(graph, made.values(), renamed)


def merge_bounds(first: Bounds, second: Bounds) -> Bounds | None:
    """The bounds that have the effect of `first`, then of `second`; None if there are none."""
    if not (first.clamps and second.clamps):
        return second if first == Bounds() else first if second == Bounds() else None
    low = min(max(first.low, second.low), second.high)
    high = min(max(first.high, second.low), second.high)
    return Bounds(low, high)
