"""Lets a convolution read the channels that it needs itself where a layer before it only takes or
reorders them: the two halves of a Split, or what a channel shuffle made.

The weights for channels that are not taken are zeros, which cost nothing in a sparse layer.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from strzoo.engine.ir.graph import Convolution, Graph, Layer
from strzoo.engine.ir.quads import QUAD, find_quads
from strzoo.engine.passes.dead import drop_dead_layers
from strzoo.engine.passes.rewriting import rebuild

DENSEST = 0.3  # of the wider weight: a denser one would multiply the zeros
FULL = 0.9  # part of a quad that is used where quads are learned


def absorb_channels(graph: Graph) -> Graph:
    """The graph with every such pair as one convolution, where that costs nothing."""
    made: dict[str, Layer] = {}
    for layer in graph.layers:
        taken = made.get(layer.inputs[0])
        chosen = _find_chosen(taken)
        joined = None
        if taken is not None and chosen is not None and isinstance(layer, Convolution):
            joined = _read_through(layer, taken, chosen)
        made[layer.output] = joined or layer
    return drop_dead_layers(rebuild(graph, made.values()))


def _find_chosen(layer: Layer | None) -> np.ndarray | None:
    """Which channels a layer takes, each at most once, if that is all that it does."""
    if (
        not isinstance(layer, Convolution)
        or layer.weight.shape[2:] != (1, 1)
        or layer.groups > 1
        or layer.bounds is not None
        or len(layer.inputs) > 1
        or layer.bias.any()
        or any(layer.window.pads)
        or layer.window.strides != (1, 1)
    ):
        return None
    weight = layer.weight[:, :, 0, 0]
    rows, chosen = np.nonzero(weight)
    one_each = len(rows) == len(weight) and (rows == np.arange(len(weight))).all()
    if not one_each or (weight[rows, chosen] != 1).any() or len({*chosen.tolist()}) < len(chosen):
        return None
    return chosen


def _read_through(layer: Convolution, taken: Layer, chosen: np.ndarray) -> Convolution | None:
    """`layer`, reading what `taken` reads; None where its zeros would cost something."""
    assert isinstance(taken, Convolution)
    channels = taken.weight.shape[1]
    if layer.groups > 1:
        return None
    weight = np.zeros((len(layer.weight), channels, *layer.window.kernel), np.float32)
    weight[:, chosen] = layer.weight
    wider = channels > len(chosen)
    if wider and np.count_nonzero(weight) > DENSEST * weight.size:
        return None
    if _has_blocks(layer.weight) and not _has_blocks(weight):
        return None
    return dataclasses.replace(layer, inputs=(taken.inputs[0], *layer.inputs[1:]), weight=weight)


def _has_blocks(weight: np.ndarray) -> bool:
    """Whether weights are zero in blocks of input channels, as int8 needs them."""
    used = np.count_nonzero(weight)
    if weight.shape[1] % QUAD or not used or used > weight.size / 2:
        return False
    return bool(used > FULL * QUAD * np.count_nonzero(find_quads(weight)))
