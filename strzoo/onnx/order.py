"""The order of an ONNX graph's nodes: what makes a value comes before what reads it.

ONNX asks for it, but onnxruntime sorts the nodes itself, so files in another order are about.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx

from strzoo.errors import IntegrityError

_SHOWN = 3  # nodes of a circle that a message names


def list_reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, also those that graphs within it take from outside."""
    yield from (name for name in node.input if name)
    for graph in list_bodies(node):
        inner = {value.name for value in graph.input}
        inner |= {tensor.name for tensor in graph.initializer}
        inner |= {name for each in graph.node for name in each.output}
        for each in graph.node:
            yield from (name for name in list_reads(each) if name not in inner)
        yield from (value.name for value in graph.output if value.name not in inner)


def list_bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs within a node: branches, and bodies of loops."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)
    ]


def sort_nodes(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """`model`, or a copy of it whose nodes are in order; those that are keep their places.

    Raises:
        IntegrityError: nodes read each other's values in a circle; `source` names the file.
    """
    if _is_sorted(model.graph):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _sort(made.graph, source)
    return made


def _is_sorted(graph: onnx.GraphProto) -> bool:
    makers = _find_makers(graph)
    return all(
        max((makers.get(name, -1) for name in list_reads(node)), default=-1) < index
        and all(map(_is_sorted, list_bodies(node)))
        for index, node in enumerate(graph.node)
    )


def _find_makers(graph: onnx.GraphProto) -> dict[str, int]:
    """Which node makes each value, by its place; the first, where several do."""
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            makers.setdefault(name, index)
    return makers


def _sort(graph: onnx.GraphProto, source: str) -> None:
    makers = _find_makers(graph)
    needs = [{makers[name] for name in list_reads(node) if name in makers} for node in graph.node]
    users: dict[int, list[int]] = {}
    for index, needed in enumerate(needs):
        for maker in needed:
            users.setdefault(maker, []).append(index)
    missing = [len(needed) for needed in needs]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))  # the first in the file's order
        for user in users.get(order[-1], ()):
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(needs):
        raise IntegrityError(
            f"{source} is damaged: nodes need each other's values in a circle "
            f"({', '.join(_find_circle(graph, needs, set(order)))}); export the model again"
        )
    nodes = [graph.node[index] for index in order]
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)
    for node in graph.node:
        for body in list_bodies(node):
            _sort(body, source)


def _find_circle(graph: onnx.GraphProto, needs: list[set[int]], sorted_: set[int]) -> list[str]:
    """The names of some nodes of a circle: from any that is left, back along what it waits for."""
    index = next(i for i in range(len(needs)) if i not in sorted_)
    passed: list[int] = []
    while index not in passed:
        passed.append(index)
        index = min(needs[index] - sorted_)
    circle = [graph.node[i] for i in passed[passed.index(index) :]]
    names = [repr((node.name or next(iter(node.output), ""))[:40]) for node in circle[:_SHOWN]]
    return names + ["..."] * (len(circle) > _SHOWN)
