"""Helpers of the passes: producers and uses of values, and graphs with other layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from strzoo.engine.ir.graph import Graph, Layer
from strzoo.engine.ir.shapes import infer_shape
from strzoo.errors import IntegrityError


def find_producers(graph: Graph) -> dict[str, Layer]:
    """The layer that computes each value; the graph's inputs have none."""
    return {layer.output: layer for layer in graph.layers}


def count_uses(graph: Graph) -> dict[str, int]:
    """How often each value is read; being an output of the graph counts once."""
    uses = dict.fromkeys(graph.shapes, 0)
    for layer in graph.layers:
        for name in layer.inputs:
            uses[name] += 1
    for name in graph.outputs:
        uses[name] += 1
    return uses


def name_new(graph: Graph, name: str) -> str:
    """`name`, or with a number where a value of the graph has it already."""
    found, number = name, 2
    while found in graph.shapes:
        found, number = f"{name}_{number}", number + 1
    return found


def rebuild(graph: Graph, layers: Iterable[Layer], renamed: Mapping[str, str] = {}) -> Graph:
    """`graph` with other layers, and with values replaced: each name in `renamed` by its value.

    Shapes are inferred again.

    Raises:
        IntegrityError: a layer reads what is not made before it, or makes what is there already.
    """
    layers = tuple(_rename(layer, renamed) for layer in layers)
    shapes = {name: graph.shapes[name] for name in graph.inputs}
    for layer in layers:
        missing = [name for name in layer.inputs if name not in shapes]
        if missing or layer.output in shapes:
            raise IntegrityError(
                f"{graph.source}: {layer.name} reads {missing}, not made yet, or makes "
                f"{layer.output!r} again"
            )
        shapes[layer.output] = infer_shape(layer, [shapes[name] for name in layer.inputs])
    output, *others = (_follow(name, renamed) for name in graph.outputs)
    return dataclasses.replace(
        graph, layers=layers, shapes=shapes, output=output, more_outputs=tuple(others)
    )


def _rename(layer: Layer, renamed: Mapping[str, str]) -> Layer:
    inputs = tuple(_follow(name, renamed) for name in layer.inputs)
    return layer if inputs == layer.inputs else dataclasses.replace(layer, inputs=inputs)


def _follow(name: str, renamed: Mapping[str, str]) -> str:
    while name in renamed:
        name = renamed[name]
    return name
