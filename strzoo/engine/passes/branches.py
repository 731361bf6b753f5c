"""Merges convolutions that read the same value in the same way and are then concatenated.

GoogLeNet's input transform consists of such convolutions, one per channel.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from strzoo.engine.ir.graph import Concat, Convolution, Graph, Layer
from strzoo.engine.passes.rewriting import count_uses, rebuild


def merge_branches(graph: Graph) -> Graph:
    """The graph with every Concat merged whose inputs are such convolutions, read by it alone."""
    uses = count_uses(graph)
    made: dict[str, Layer] = {}
    for layer in graph.layers:
        parts = [made.get(name) for name in layer.inputs] if isinstance(layer, Concat) else []
        convolutions = [
            part for part in parts if isinstance(part, Convolution) and uses[part.output] == 1
        ]
        if parts and len(convolutions) == len(parts) and _are_alike(convolutions):
            for part in convolutions:
                del made[part.output]
            made[layer.output] = dataclasses.replace(
                convolutions[0],
                name=layer.name,
                output=layer.output,
                weight=np.concatenate([part.weight for part in convolutions]),
                bias=np.concatenate([part.bias for part in convolutions]),
            )
        else:
            made[layer.output] = layer
    return rebuild(graph, made.values())


def _are_alike(parts: list[Convolution]) -> bool:
    ways = {(p.inputs, p.window, p.groups, p.bounds) for p in parts}
    return len(ways) == 1 and parts[0].groups == 1 and len(parts[0].inputs) == 1
