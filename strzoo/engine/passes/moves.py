"""Lets what works number by number run before numbers are moved, next to the layer that made them.

There it is fused into that layer: behind a ConvTranspose, which is a Rearrange of one convolution,
or of several that a Concat joins.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from strzoo.engine.ir.graph import (
    Affine,
    Clamp,
    Concat,
    Convolution,
    Graph,
    Layer,
    PRelu,
    Rearrange,
)
from strzoo.engine.passes.rewriting import count_uses, find_producers, name_new, rebuild

LARGEST = 2  # times the numbers of the result: a source that is larger is left as it is


def move_forward(graph: Graph) -> Graph:
    """The graph with every such layer before the Rearrange that it follows, if nothing else reads
    what that makes."""
    while (moved := _move_one(graph)) is not None:
        graph = moved
    return graph


def _move_one(graph: Graph) -> Graph | None:
    producers, uses = find_producers(graph), count_uses(graph)
    for layer in graph.layers:
        before = producers.get(layer.inputs[0])
        if before is None or uses[before.output] > 1:
            continue
        if not isinstance(layer, Affine | Clamp | PRelu):
            continue
        if isinstance(before, Concat) and _are_phases(before, producers, uses):
            return _move_into(graph, layer, before)
        if not isinstance(before, Rearrange):
            continue
        shape = graph.shapes[before.inputs[0]]
        if math.prod(shape) > LARGEST * math.prod(graph.shapes[before.output]):
            continue
        inner = name_new(graph, f"{layer.output}_of_{before.inputs[0]}")
        early = _take_channels(layer, _find_readers(before, shape))
        if early is None:
            continue
        pair = {
            before.name: dataclasses.replace(early, inputs=before.inputs, output=inner),
            layer.name: dataclasses.replace(before, inputs=(inner,), output=layer.output),
        }
        return rebuild(graph, [pair.get(each.name, each) for each in graph.layers])
    return None


def _are_phases(concat: Concat, producers: dict[str, Layer], uses: dict[str, int]) -> bool:
    """Whether a Concat joins convolutions, scaled or not, that nothing else reads."""
    return all(
        isinstance(producers.get(name), Affine | Convolution) and uses[name] == 1
        for name in concat.inputs
    )


def _move_into(graph: Graph, layer: Layer, concat: Concat) -> Graph | None:
    """`layer` applied to each of what `concat` joins."""
    parts, early, start = [], [], 0
    for number, name in enumerate(concat.inputs):
        stop = start + graph.shapes[name][0]
        inner = name_new(graph, f"{layer.output}_part_{number}")
        taken = _take_channels(layer, np.arange(start, stop))
        if taken is None:
            return None
        own = f"{layer.name}_part_{number}"
        early.append(dataclasses.replace(taken, name=own, inputs=(name,), output=inner))
        parts.append(inner)
        start = stop
    joined = dataclasses.replace(concat, inputs=tuple(parts), output=layer.output)
    layers: list[Layer] = []
    for each in graph.layers:
        if each is layer:
            layers += [*early, joined]
        elif each is not concat:
            layers.append(each)
    return rebuild(graph, layers)


def _find_readers(layer: Rearrange, shape: tuple[int, ...]) -> np.ndarray | None:
    """The channel of the result that reads each channel of a source of `shape`, 0 where none does;
    None where several do."""
    pixels = math.prod(shape[1:])
    readers = np.full(shape[0], -1)
    for place, places in enumerate(layer.places):
        for channel in np.unique(places // pixels):
            read = channel + layer.step * np.arange(layer.repeats)
            if (readers[read] >= 0).any():
                return None
            readers[read] = place + len(layer.places) * np.arange(layer.repeats)
    return np.maximum(readers, 0)


def _take_channels(layer: Layer, readers: np.ndarray | None) -> Layer | None:
    """`layer` with the numbers of each channel for all that the channel is made of."""
    if isinstance(layer, Clamp):
        return layer
    if readers is None:
        return None
    if isinstance(layer, PRelu):
        return dataclasses.replace(layer, slope=layer.slope[readers])
    assert isinstance(layer, Affine)
    return dataclasses.replace(layer, scale=layer.scale[readers], shift=layer.shift[readers])
