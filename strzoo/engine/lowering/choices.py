"""What was chosen for each layer, and what its zeros are expected to gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Convolution, Graph, Linear
from strzoo.engine.layout.memory_planning import place_values
from strzoo.engine.layout.tiling import (
    Problem,
    Tiling,
    candidates,
    choose_tiling,
    estimate,
    is_depthwise,
    pose_problem,
)
from strzoo.engine.results import LayerChoice

# Cycles per weight of a fully connected layer, whose weights come from memory: four bytes each if
# dense, eight with their places.
_DENSE_WEIGHT, _SPARSE_WEIGHT = 0.5, 1.0


@dataclass(frozen=True)
class LayerProblem:
    """A convolution as the cost model sees it; a depthwise kernel has nothing to choose.

    `tile` is the one that the rules chose, for all layers of the same `group`.
    """

    problem: Problem
    depthwise: bool
    tile: int
    group: int


def list_problems(
    graph: Graph, hardware: Hardware, images: int, threads: int
) -> dict[str, LayerProblem]:
    """The convolutions of a plan (`planning.make_plan`), by layer; those of single pixels, which
    run as fully connected layers, are not among them."""
    placement = place_values(graph, images, hardware, threads, {})
    found = {}
    for layer in graph.layers:
        if not isinstance(layer, Convolution) or layer.name not in placement.sources:
            continue
        target, taps = placement.values[layer.output], placement.taps[layer.name]
        frame, group = target.geometry, placement.groups[id(target.root)]
        whole_rows = group in placement.whole_rows
        problem = pose_problem(layer, taps, frame.regions, threads, whole_rows=whole_rows)
        found[layer.name] = LayerProblem(problem, is_depthwise(layer), frame.tile, group)
    return found


def choose_tilings(problems: Mapping[str, LayerProblem], hardware: Hardware) -> dict[str, Tiling]:
    """The cheapest of each by the cost model."""
    return {
        name: choose_tiling(layer.problem, layer.tile, hardware) for name, layer in problems.items()
    }


def list_choices(
    graph: Graph,
    hardware: Hardware,
    problems: Mapping[str, LayerProblem],
    tilings: Mapping[str, Tiling],
    chosen: Mapping[str, str],
) -> tuple[LayerChoice, ...]:
    """A record per layer with weights, in order. Args: `chosen` is the plan's."""
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
            cycles = dense if form.startswith("dense") else nonzeros * _SPARSE_WEIGHT
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
    """Of the best dense form; where there is none, of the sparse form with every weight."""
    dense = [t for t in candidates(problem, tile, hardware) if t.group > 1]
    if not dense:
        problem = replace(problem, nonzeros=problem.weights)
        dense = [choose_tiling(problem, tile, hardware)]
    return min(estimate(problem, tiling, hardware) for tiling in dense)
