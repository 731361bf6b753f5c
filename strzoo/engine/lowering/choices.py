"""The report on each layer: how it runs, and what its zeros are expected to gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Convolution, Graph, Linear
from strzoo.engine.layout.problems import LayerProblem
from strzoo.engine.layout.tiling import Problem, Tiling, candidates, choose_tiling, estimate
from strzoo.engine.results import LayerChoice

# Cycles per weight of a fully connected layer, whose weights come from memory: four bytes each if
# dense, six with their offsets for those that are not zero, four and a bit for all if masked.
_DENSE_WEIGHT, _SPARSE_WEIGHT, _MASKED_WEIGHT = 0.5, 1.0, 0.2


def list_choices(
    graph: Graph,
    hardware: Hardware,
    problems: Mapping[str, LayerProblem],
    tilings: Mapping[str, Tiling],
    chosen: Mapping[str, str],
) -> tuple[LayerChoice, ...]:
    """One record per layer with weights, in order; `chosen` is the plan's."""
    found = []
    for layer in graph.layers:
        if not isinstance(layer, Convolution | Linear):
            continue
        nonzeros = int(np.count_nonzero(layer.weight))
        form = chosen.get(layer.name, "")
        known = problems.get(layer.name)
        if known is None:
            kind = "linear"
            dense = layer.weight.size * _DENSE_WEIGHT
            cycles = {
                "dense": dense,
                "masked": layer.weight.size * _MASKED_WEIGHT,
            }.get(form.partition(",")[0], nonzeros * _SPARSE_WEIGHT)
        else:
            kind = "depthwise" if form.startswith("depthwise") else "convolution"
            dense = _dense_cycles(known.problem, tilings[layer.name].tile, hardware)
            cycles = dense
            if kind == "convolution":
                cycles = estimate(known.problem, tilings[layer.name], hardware)
        found.append(
            LayerChoice(
                layer.name, kind, form, layer.weight.size, nonzeros, float(cycles), float(dense)
            )
        )
    return tuple(found)


def _dense_cycles(problem: Problem, tile: int, hardware: Hardware) -> float:
    """Cycles of the best dense form; if there is none, of the sparse form with all weights."""
    dense = [t for t in candidates(problem, tile, hardware) if t.group > 1]
    if not dense:
        problem = replace(problem, nonzeros=problem.weights)
        dense = [choose_tiling(problem, tile, hardware)]
    return min(estimate(problem, tiling, hardware) for tiling in dense)
