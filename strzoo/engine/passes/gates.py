"""Joins what exporters write in several layers into one function: x * sigmoid(x), and GELU."""

from __future__ import annotations

import math

import numpy as np

from strzoo.engine.ir.functions import GATES
from strzoo.engine.ir.graph import Affine, Bounds, Clamp, Combine, Graph, Layer
from strzoo.engine.passes.dead import drop_dead_layers
from strzoo.engine.passes.rewriting import find_producers, name_new, rebuild


def join_gates(graph: Graph) -> Graph:
    """The graph with SiLU, HardSwish and GELU as functions; layers that only they used go."""
    producers = find_producers(graph)
    layers: list[Layer] = []
    for layer in graph.layers:
        made = [layer]
        if isinstance(layer, Combine) and layer.function == "mul" and layer.bounds is None:
            for x, gate in (layer.inputs, layer.inputs[::-1]):
                joined = _join(graph, layer, x, producers.get(gate), producers)
                if joined and graph.shapes[x] == graph.shapes[layer.output]:
                    made = joined
                    break
        layers += made
    return drop_dead_layers(rebuild(graph, layers))


def _join(
    graph: Graph, product: Combine, x: str, gate: Layer | None, producers: dict[str, Layer]
) -> list[Layer] | None:
    """The layers that compute x * gate, if gate is such a function of x."""
    if isinstance(gate, Clamp) and gate.inputs == (x,) and gate.bounds.function in GATES:
        bounds = Bounds(gate.bounds.low, gate.bounds.high, GATES[gate.bounds.function])
        return [Clamp(product.name, (x,), product.output, bounds)]
    # x * (1 + erf(x / sqrt(2))) is 2 * GELU.
    shifted = _is_affine(gate, 1, 1)
    erf = producers.get(shifted or "")
    if not (isinstance(erf, Clamp) and erf.bounds.function == "erf"):
        return None
    if _is_affine(producers.get(erf.inputs[0]), math.sqrt(0.5), 0) != x:
        return None
    inner = name_new(graph, f"{product.output}_gelu")
    channels = len(gate.scale) if isinstance(gate, Affine) else 0
    two = np.full(channels, 2, np.float32)
    return [
        Clamp(f"{product.name}_gelu", (x,), inner, Bounds(0.0, 0.0, "gelu")),
        Affine(product.name, (inner,), product.output, two, np.zeros(channels, np.float32)),
    ]


def _is_affine(layer: Layer | None, scale: float, shift: float) -> str | None:
    """The input of a layer that computes scale * x + shift for all channels; else None."""
    if not isinstance(layer, Affine) or layer.bounds is not None:
        return None
    same = np.allclose(layer.scale, scale, rtol=1e-6) and np.allclose(layer.shift, shift, atol=1e-7)
    return layer.inputs[0] if same else None
