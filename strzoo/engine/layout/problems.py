"""The convolutions of a graph as problems for the cost model, and its choices for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Convolution, Graph
from strzoo.engine.layout.layouts import lay_out
from strzoo.engine.layout.tiling import (
    Problem,
    Tiling,
    choose_tiling,
    is_depthwise,
    pose_problem,
)


@dataclass(frozen=True)
class LayerProblem:
    """A convolution as the cost model sees it.

    Args:
        problem: for the cost model.
        depthwise: whether the depthwise kernel runs it, for which there is nothing to choose.
        tile: that the cost model chose, for all layers of the same `group`.
        group: number of the class of buffers that the layer writes.
    """

    problem: Problem
    depthwise: bool
    tile: int
    group: int


def list_problems(
    graph: Graph, hardware: Hardware, images: int, threads: int
) -> dict[str, LayerProblem]:
    """The convolutions of `graph` by name, without those of single pixels, which run as fully
    connected layers."""
    memory = lay_out(graph, images, hardware, threads, {})
    found = {}
    for layer in graph.layers:
        if not isinstance(layer, Convolution) or layer.name not in memory.sources:
            continue
        target, taps = memory.values[layer.output], memory.taps[layer.name]
        layout, group = target.layout, memory.groups[id(target.root)]
        whole_rows = group in memory.whole_rows
        problem = pose_problem(layer, taps, layout.blocking, threads, whole_rows=whole_rows)
        found[layer.name] = LayerProblem(problem, is_depthwise(layer), layout.tile, group)
    return found


def choose_tilings(problems: Mapping[str, LayerProblem], hardware: Hardware) -> dict[str, Tiling]:
    """The cheapest tiling of each by the cost model."""
    return {
        name: choose_tiling(layer.problem, layer.tile, hardware) for name, layer in problems.items()
    }
