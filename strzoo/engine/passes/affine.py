"""Folds a BatchNormalization, or any scale and shift per channel, into the weights before it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from strzoo.engine.ir.graph import Affine, Convolution, Graph, Layer, Linear
from strzoo.engine.passes.rewriting import count_uses, rebuild


def fold_affine(graph: Graph) -> Graph:
    """The graph with every Affine folded whose input nothing else reads."""
    uses = count_uses(graph)
    made: dict[str, Layer] = {}
    renamed: dict[str, str] = {}
    for layer in graph.layers:
        if isinstance(layer, Affine):
            source = renamed.get(layer.inputs[0], layer.inputs[0])
            before = made.get(source)
            if before is not None and uses[layer.inputs[0]] == 1:
                folded = _fold(before, layer)
                if folded is not None:
                    made[source] = folded
                    renamed[layer.output] = source
                    continue
        made[layer.output] = layer
    return rebuild(graph, made.values(), renamed)


@np.errstate(all="ignore")
def _fold(before: Layer, affine: Affine) -> Layer | None:
    """One layer that does both, or None; also where the numbers of one would be too large."""
    scale, shift = affine.scale.astype(np.float64), affine.shift.astype(np.float64)
    if isinstance(before, Affine) and before.bounds is None:
        fields = {"scale": before.scale * scale, "shift": before.shift * scale + shift}
        return _replace(before, fields, affine)
    if (
        not isinstance(before, Convolution | Linear)
        or before.bounds is not None
        or len(before.inputs) > 1
    ):
        return None
    per_row = scale.reshape(-1, *[1] * (before.weight.ndim - 1))
    fields = {"weight": before.weight * per_row, "bias": before.bias * scale + shift}
    return _replace(before, fields, affine)


def _replace(before: Layer, fields: dict[str, np.ndarray], affine: Affine) -> Layer | None:
    """`before` with `fields` in fp32 and the bounds of `affine`; None if they are not finite."""
    changed: dict[str, Any] = {name: values.astype(np.float32) for name, values in fields.items()}
    if not all(np.isfinite(values).all() for values in changed.values()):
        return None
    changed["bounds"] = affine.bounds
    return dataclasses.replace(before, **changed)
