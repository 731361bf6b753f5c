"""Fuses the Add that ends a residual block into the last convolution before it."""

from __future__ import annotations

import dataclasses

from strzoo.engine.ir.graph import Add, Convolution, Graph, Layer
from strzoo.engine.passes.rewriting import count_uses, rebuild


def fuse_residuals(graph: Graph) -> Graph:
    """The fused convolution takes the Add's place, where both its inputs have been made.

    It may be the earlier of the two, if the later is not a convolution whose result only the Add
    reads; computing it later changes nothing else.
    """
    uses = count_uses(graph)
    made: dict[str, Layer] = {}
    for layer in graph.layers:
        chosen = _choose(layer, made, uses) if isinstance(layer, Add) else None
        if chosen is None:
            made[layer.output] = layer
            continue
        assert isinstance(layer, Add)
        first, second = layer.inputs
        residual = second if chosen.output == first else first
        del made[chosen.output]
        made[layer.output] = dataclasses.replace(
            chosen, inputs=(*chosen.inputs, residual), output=layer.output, bounds=layer.bounds
        )
    return rebuild(graph, made.values())


def _choose(add: Add, made: dict[str, Layer], uses: dict[str, int]) -> Convolution | None:
    """The last convolution before `add` that it can be fused into."""
    for output, layer in reversed(made.items()):
        if (
            output in add.inputs
            and isinstance(layer, Convolution)
            and uses[output] == 1
            and layer.bounds is None
            and len(layer.inputs) == 1
        ):
            return layer
    return None
