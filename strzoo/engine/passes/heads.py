"""Turns a classifier that is a 1x1 convolution on a map of one pixel into a Linear layer.

`Flatten` is moved before the layers that work on a single pixel, up to the global pool.
"""

from __future__ import annotations

import dataclasses

from strzoo.engine.ir.graph import (
    Affine,
    Clamp,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Graph,
    Layer,
    Linear,
    Normalize,
)
from strzoo.engine.passes.rewriting import count_uses, find_producers, name_new, rebuild


def flatten_heads(graph: Graph) -> Graph:
    while (lifted := _lift_one(graph)) is not None:
        graph = lifted
    return graph


def _lift_one(graph: Graph) -> Graph | None:
    """`graph` with one Flatten exchanged with, or fused into, the layer before it; or None."""
    producers, uses = find_producers(graph), count_uses(graph)
    for flatten in graph.layers:
        if not isinstance(flatten, Flatten):
            continue
        before = producers.get(flatten.inputs[0])
        if before is None or uses[before.output] > 1:
            continue
        pixel = graph.shapes[before.inputs[0]][1:] == (1, 1)
        if isinstance(before, GlobalAveragePool):
            lifted: list[Layer] = [dataclasses.replace(before, output=flatten.output, flat=True)]
        elif pixel and _works_per_pixel(before):
            vector = name_new(graph, f"{flatten.output}_of_{before.inputs[0]}")
            lifted = [
                Flatten(flatten.name, before.inputs, vector),
                _vectorise(before, vector, flatten.output),
            ]
        else:
            continue
        layers: list[Layer] = []
        for layer in graph.layers:
            if layer is before:
                layers += lifted
            elif layer is not flatten:
                layers.append(layer)
        return rebuild(graph, layers)
    return None


def _works_per_pixel(layer: Layer) -> bool:
    if isinstance(layer, Convolution):
        window = layer.window
        simple = window.kernel == (1, 1) and not any(window.pads)
        return simple and layer.groups == 1 and len(layer.inputs) == 1
    return isinstance(layer, Affine | Clamp | Normalize)


def _vectorise(layer: Layer, source: str, output: str) -> Layer:
    if isinstance(layer, Convolution):
        weight = layer.weight[:, :, 0, 0]
        return Linear(layer.name, (source,), output, weight, layer.bias, layer.bounds)
    return dataclasses.replace(layer, inputs=(source,), output=output)
