"""divide: what was read of a network, as sections and islands in the order of their stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strzoo.engine.frontend.inputs import read_port
from strzoo.engine.frontend.islands import cut_out
from strzoo.engine.frontend.problems import Whole
from strzoo.engine.frontend.reading import Left, Made, Reading
from strzoo.engine.ir.graph import Convolution, Graph, Layer, Linear
from strzoo.engine.ir.parts import Division, Feed, Island, Port, Problem, Section
from strzoo.engine.ir.places import only_moves
from strzoo.onnx.order import list_reads

# What a hand-over between the engine and onnxruntime costs, and what a multiplication saves, by
# measurements on x86-64: a section that saves less than it costs is left to onnxruntime.
HANDOVER = 20e-6  # seconds each
PER_BYTE = 0.25e-9  # seconds, for the change of layout on either side
DENSE_MAC, SPARSE_MAC, DEPTHWISE_MAC = 0.022e-9, 0.025e-9, 0.1e-9  # seconds on a core


@dataclass(frozen=True, eq=False)
class Divided:
    """A network in parts: the graphs of the sections of `division`, in their order, and the nodes
    that each of them stands for."""

    division: Division
    graphs: tuple[Graph, ...]
    nodes: tuple[tuple[str, ...], ...]


def divide(
    reading: Reading, name: str, left: Sequence[str] = (), problems: Sequence[Problem] = ()
) -> Divided:
    """The network in parts; `name` is what messages call it, `left` and `problems` say what was
    left to onnxruntime and why.

    Raises:
        Whole: it cannot be divided, or there is nothing that the engine runs.
    """
    builder = reading.builder
    results = tuple(_find_result(reading, value.name) for value in reading.model.graph.output)
    items = _drop_dead(reading, {feed.value for feed in results})
    if not any(isinstance(item, Made) for item in items):
        raise Whole(Problem("network", name, "which has no layers"))
    stages: dict[int, list[Made | Left]] = {}
    for item in items:
        stage = item.stage if isinstance(item, Left) else builder.stages[item.layer.output]
        stages.setdefault(stage, []).append(item)
    readers: dict[str, set[int]] = {feed.value: {-1} for feed in results}
    for stage, items in stages.items():
        for item in items:
            for value in _reads(reading, item):
                readers.setdefault(value, set()).add(stage)
    steps: list[Section | Island] = []
    graphs: list[Graph] = []
    nodes: list[tuple[str, ...]] = []
    for stage in sorted(stages):
        made = [value for item in stages[stage] for value in _makes(item)]
        outputs = tuple(value for value in made if readers.get(value, set()) - {stage})
        members = [item for item in stages[stage] if isinstance(item, Made)]
        if members:
            graph = _make_graph(reading, [item.layer for item in members], made, outputs, name)
            graphs.append(graph)
            nodes.append(tuple(dict.fromkeys(n for item in members for n in item.node.output)))
            steps.append(_describe(graph, len({id(item.node) for item in members})))
        else:
            lefts = [item for item in stages[stage] if isinstance(item, Left)]
            steps.append(cut_out(reading, lefts, outputs))
    batch = reading.batch if any(isinstance(step, Island) for step in steps) else None
    ports = tuple(
        _output_port(value, feed, batch)
        for value, feed in zip(reading.model.graph.output, results, strict=True)
    )
    inputs = tuple(
        Port(given.port.name, given.port.dtype, (batch, *given.port.shape[1:]))
        if given.shape is not None
        else given.port
        for given in reading.inputs
    )
    kept = (tuple(left), tuple(problems))
    division = Division(inputs, ports, tuple(steps), results, batch, *kept)
    return Divided(division, tuple(graphs), tuple(nodes))


def find_worthless(divided: Divided) -> set[str]:
    """Outputs of the nodes of sections that save less than their hand-overs cost."""
    found: set[str] = set()
    if not divided.division.islands:
        return found
    for graph, nodes in zip(divided.graphs, divided.nodes, strict=True):
        if estimate_gain(graph) <= 0:
            found.update(nodes)
    return found


def estimate_gain(graph: Graph) -> float:
    """Seconds for one image that the engine is expected to save, hand-overs included."""
    passed = [*graph.inputs, *graph.outputs]
    numbers = sum(int(np.prod(graph.shapes[name])) for name in passed)
    gain = -len(passed) * HANDOVER - 4 * numbers * PER_BYTE
    for layer in graph.layers:
        if isinstance(layer, Convolution | Linear) and not only_moves(layer):
            pixels = int(np.prod(graph.shapes[layer.output][1:]))
            nonzero = int(np.count_nonzero(layer.weight))
            depthwise = isinstance(layer, Convolution) and layer.groups == len(layer.weight) > 1
            dense = DEPTHWISE_MAC if depthwise else DENSE_MAC
            gain += pixels * (layer.weight.size * dense - nonzero * min(SPARSE_MAC, dense))
    return gain


def _make_graph(
    reading: Reading, layers: list[Layer], made: list[str], outputs: tuple[str, ...], name: str
) -> Graph:
    builder = reading.builder
    read = (value for layer in layers for value in layer.inputs if value not in made)
    inputs = tuple(dict.fromkeys(read))
    shapes = {value: builder.shapes[value] for value in (*inputs, *made)}
    return Graph(inputs[0], outputs[0], shapes, tuple(layers), name, inputs[1:], outputs[1:])


def _describe(graph: Graph, nodes: int) -> Section:
    inputs, outputs = (
        tuple(Feed(name, name, graph.shapes[name]) for name in names)
        for names in (graph.inputs, graph.outputs)
    )
    macs = sum(
        layer.weight.size * int(np.prod(graph.shapes[layer.output][1:]))
        for layer in graph.layers
        if isinstance(layer, Convolution | Linear) and not only_moves(layer)
    )
    return Section(inputs, outputs, nodes, macs)


def _find_result(reading: Reading, name: str) -> Feed:
    if name in reading.builder.opaque:
        return Feed(name, name)
    view = reading.builder.view(name)
    return Feed(name, view.value, view.shape)


def _output_port(value: object, feed: Feed, batch: int | None) -> Port:
    if feed.shape is None:
        return read_port(value)  # type: ignore[arg-type]
    return Port(feed.name, "float32", (batch, *feed.shape))


def _reads(reading: Reading, item: Made | Left) -> list[str]:
    """The arrays and values that a layer or a node reads, by their own names."""
    if isinstance(item, Made):
        return list(item.layer.inputs)
    builder = reading.builder
    return [
        name if name in builder.opaque else builder.view(name).value
        for name in list_reads(item.node)
        if name not in builder.constants
    ]


def _makes(item: Made | Left) -> list[str]:
    if isinstance(item, Made):
        return [item.layer.output]
    return [name for name in item.node.output if name]


def _drop_dead(reading: Reading, needed: set[str]) -> list[Made | Left]:
    """What the results depend on, in order."""
    kept = []
    for item in reversed(reading.items):
        if needed.intersection(_makes(item)):
            needed.update(_reads(reading, item))
            kept.append(item)
    return kept[::-1]
