"""Drops layers that return their input.

They are pools of one pixel, bounds without limits, a Concat of one input and a Pick of all pixels.
(The front end already drops Dropout and reshapes.)
"""

from __future__ import annotations

import numpy as np

from strzoo.engine.ir.graph import (
    Affine,
    AveragePool,
    Bounds,
    Clamp,
    Concat,
    Flatten,
    GlobalAveragePool,
    Graph,
    Layer,
    MaxPool,
    Pick,
    Window,
)
from strzoo.engine.passes.rewriting import rebuild


def drop_noops(graph: Graph) -> Graph:
    renamed: dict[str, str] = {}
    kept: list[Layer] = []
    for layer in graph.layers:
        source = renamed.get(layer.inputs[0], layer.inputs[0])
        # An output that is an input takes a layer that copies it.
        whole = layer.output in graph.outputs and source in graph.inputs
        if _does_nothing(layer, graph) and not whole:
            renamed[layer.output] = source
        else:
            kept.append(layer)
    return rebuild(graph, kept, renamed)


def _does_nothing(layer: Layer, graph: Graph) -> bool:
    source = graph.shapes[layer.inputs[0]]
    if isinstance(layer, Clamp):
        return layer.bounds == Bounds()
    if isinstance(layer, Affine):
        free = layer.bounds in (None, Bounds())
        return free and bool(np.all(layer.scale == 1) and np.all(layer.shift == 0))
    if isinstance(layer, MaxPool | AveragePool):
        return layer.window == Window((1, 1), dilations=layer.window.dilations)
    if isinstance(layer, GlobalAveragePool):
        return graph.shapes[layer.output] == source
    if isinstance(layer, Flatten):
        return len(source) == 1
    if isinstance(layer, Pick):
        taken = zip((layer.rows, layer.columns), source[1:], strict=True)
        return all(np.array_equal(places, np.arange(size)) for places, size in taken)
    return isinstance(layer, Concat) and len(layer.inputs) == 1
