"""Drops layers whose result nothing needs."""

from __future__ import annotations

from strzoo.engine.ir.graph import Graph
from strzoo.engine.passes.rewriting import rebuild


def drop_dead_layers(graph: Graph) -> Graph:
    needed = {*graph.outputs}
    kept = []
    for layer in reversed(graph.layers):
        if layer.output in needed:
            needed.update(layer.inputs)
            kept.append(layer)
    return rebuild(graph, kept[::-1])
