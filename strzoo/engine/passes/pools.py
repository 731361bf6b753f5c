"""Turns an average pool over the whole map into a global one, which has its own kernel."""

from __future__ import annotations

from strzoo.engine.ir.graph import AveragePool, GlobalAveragePool, Graph, Layer
from strzoo.engine.passes.rewriting import rebuild


def globalise_pools(graph: Graph) -> Graph:
    return rebuild(graph, [_globalise(layer, graph) for layer in graph.layers])


def _globalise(layer: Layer, graph: Graph) -> Layer:
    if not isinstance(layer, AveragePool):
        return layer
    whole = layer.window.kernel == graph.shapes[layer.inputs[0]][1:]
    if not whole or any(layer.window.pads) or layer.window.dilations != (1, 1):
        return layer
    return GlobalAveragePool(layer.name, layer.inputs, layer.output)
