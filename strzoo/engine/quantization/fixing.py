"""From a graph in fp32 to one in fixed point: which layers, and the conversions between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.classes import Classes
from strzoo.engine.ir.fixed import (
    LARGEST,
    Dequantize,
    FixedGlobalAveragePool,
    FixedLinear,
    Quantize,
)
from strzoo.engine.ir.graph import (
    Convolution,
    GlobalAveragePool,
    Graph,
    Layer,
    Linear,
    MaxPool,
)
from strzoo.engine.ir.masks import AT_ONCE, LARGEST_SUM, SEGMENT, largest_sums
from strzoo.engine.layout.problems import choose_tilings, list_problems
from strzoo.engine.layout.tiling import estimate
from strzoo.engine.quantization.emulation import quantize_convolution
from strzoo.engine.quantization.observation import Observation
from strzoo.engine.quantization.scales import Scales

SAVED = 0.45  # of the cycles of a convolution in fp32
CONVERTED = 2.5  # cycles for each number that is converted on the way


@dataclass(frozen=True, eq=False)
class Fixed:
    """A graph in fixed point.

    Args:
        graph: whose convolutions run in fixed point where that pays.
        errors: of the layers in fixed point, relative, by name.
        lossy: the layers that stay in fp32 because they would lose more than is tolerated.
    """

    graph: Graph
    errors: dict[str, float]
    lossy: tuple[str, ...]


def fix(graph: Graph, seen: Observation, hardware: Hardware, tolerance: float) -> Fixed:
    """`graph` in fixed point.

    Args:
        graph: simplified, in fp32.
        seen: what it computes of calibration images.
        hardware: what it will run on.
        tolerance: the largest relative error (root mean square) that a layer may add.
    """
    gains = _gains(graph, hardware)
    convolutions = (layer for layer in graph.layers if isinstance(layer, Convolution))
    names = {layer.name for layer in convolutions if layer.name in gains and seen.tells(layer)}
    lossy: set[str] = set()
    while True:
        names = worthwhile(graph, names, gains)
        scales = Scales(graph, seen, names)
        trials = scales.settle()
        worse = {name for name, trial in trials.items() if not trial.error <= tolerance}
        if not worse:
            break
        lossy |= worse
        names -= worse
    fixed = _Rewriting(graph, scales, names).run() if names else graph
    errors = {name: trial.error for name, trial in trials.items()}
    return Fixed(fixed, errors, tuple(layer.name for layer in graph.layers if layer.name in lossy))


def _gains(graph: Graph, hardware: Hardware) -> dict[str, float]:
    """The cycles that each convolution is expected to save in fixed point."""
    problems = list_problems(graph, hardware, 1, 1)
    tilings = choose_tilings(problems, hardware)
    return {
        name: SAVED * estimate(layer.problem, tilings[name], hardware)
        for name, layer in problems.items()
    }


def worthwhile(graph: Graph, names: set[str], gains: Mapping[str, float]) -> set[str]:
    """`names` without those whose maps would be converted for more cycles than they save."""
    regions: Classes[str] = Classes()  # of layers in fixed point whose maps are not converted
    members: set[str] = set()
    makers = {layer.output: layer for layer in graph.layers}
    inside = [layer for layer in graph.layers if layer.name in names]
    for layer in graph.layers:
        maker = makers.get(layer.inputs[0])
        pooled = isinstance(layer, MaxPool) and maker is not None and maker.name in members
        if layer.name in names or pooled:
            members.add(layer.name)
            if pooled:
                inside.append(layer)
    for layer in inside:
        for name in layer.inputs:
            maker = makers.get(name)
            if maker is not None and maker.name in members:
                regions.join(layer.name, maker.name)
    balance = dict.fromkeys(map(regions.find, members), 0.0)
    for name in names:
        balance[regions.find(name)] += gains[name]
    for value, reader in _crossings(graph, members):
        balance[regions.find(reader)] -= CONVERTED * float(np.prod(graph.shapes[value]))
    return {name for name in names if balance[regions.find(name)] > 0}


def _crossings(graph: Graph, inside: set[str]) -> list[tuple[str, str]]:
    """(value, layer inside) for every map that is converted: once for its reader or maker."""
    makers = {layer.output: layer for layer in graph.layers}
    found = {}
    for layer in graph.layers:
        for name in layer.inputs:
            maker = makers.get(name)
            made_inside = maker is not None and maker.name in inside
            if layer.name in inside and not made_inside and name != graph.input:
                found[name, "in"] = layer.name
            pooled = isinstance(layer, GlobalAveragePool)
            if maker is not None and made_inside and layer.name not in inside and not pooled:
                found[name, "out"] = maker.name
    last = makers.get(graph.output)
    if last is not None and last.name in inside:
        found[graph.output, "out"] = last.name
    return [(value, layer) for (value, _), layer in found.items()]


def in_16_bits(layer: Linear) -> FixedLinear:
    """A fully connected layer with weights of 16 bits, of which products with features fit 32
    bits."""
    most = LARGEST_SUM - SEGMENT // AT_ONCE  # as each weight may be rounded up
    largest = np.maximum(np.abs(layer.weight).max(1) / LARGEST, largest_sums(layer.weight) / most)
    scale = np.maximum(largest, 1e-35).astype(np.float32)
    weight = np.rint(layer.weight / scale[:, None]).clip(-LARGEST, LARGEST).astype(np.int16)
    return FixedLinear(
        layer.name, layer.inputs, layer.output, weight, layer.bias, layer.bounds, scale
    )


class _Rewriting:
    """Writes the layers of a graph anew, those called `names` in fixed point."""

    def __init__(self, graph: Graph, scales: Scales, names: set[str]) -> None:
        self._graph, self._scales, self._names = graph, scales, names
        self._layers: list[Layer] = []
        self._shapes = dict(graph.shapes)
        self._fixed: dict[str, str] = {}  # the name in fixed point, of values that have one
        self._plain: dict[str, str] = {}  # the name in fp32, of values in fixed point

    def run(self) -> Graph:
        graph = self._graph
        for layer in graph.layers:
            if isinstance(layer, Convolution) and layer.name in self._names:
                self._convolution(layer)
            elif isinstance(layer, MaxPool) and self._fixed.get(layer.inputs[0]) == layer.inputs[0]:
                self._layers.append(layer)
                self._fixed[layer.output] = layer.output
            elif isinstance(layer, GlobalAveragePool) and self._is_fixed(layer.inputs[0]):
                scale = self._scales[layer.inputs[0]].astype(np.float32)
                pool = FixedGlobalAveragePool(
                    layer.name, layer.inputs, layer.output, layer.flat, scale
                )
                self._layers.append(pool)
            else:
                inputs = tuple(self._in_fp32(name) for name in layer.inputs)
                layer = replace(layer, inputs=inputs)
                self._layers.append(in_16_bits(layer) if isinstance(layer, Linear) else layer)
        output = self._in_fp32(graph.output)
        # In the order in which they are made, as all graphs have them.
        made = (graph.input, *(layer.output for layer in self._layers))
        shapes = {name: self._shapes[name] for name in made}
        return replace(graph, output=output, shapes=shapes, layers=tuple(self._layers))

    def _convolution(self, layer: Convolution) -> None:
        source, target = self._scales[layer.inputs[0]], self._scales[layer.output]
        inputs = [self._in_fixed(layer.inputs[0], source)]
        inputs += [self._in_fixed(name, target) for name in layer.inputs[1:]]
        fixed = quantize_convolution(layer, layer.name, source, target)
        self._layers.append(replace(fixed, inputs=tuple(inputs)))
        self._fixed[layer.output] = layer.output

    def _is_fixed(self, name: str) -> bool:
        """Whether the value itself is in fixed point."""
        return self._fixed.get(name) == name

    def _in_fixed(self, name: str, scale: np.ndarray) -> str:
        """The value in fixed point with that scale."""
        own = np.array_equal(self._scales[name], scale)
        if own and name in self._fixed:
            return self._fixed[name]
        plain = self._in_fp32(name)
        made = f"{name} in fixed point"
        while made in self._shapes:
            made += "'"
        self._add(Quantize(made, (plain,), made, scale), name)
        if own:
            self._fixed[name] = made
        return made

    def _in_fp32(self, name: str) -> str:
        if not self._is_fixed(name):
            return name
        if name not in self._plain:
            made = f"{name} in fp32"
            scale = self._scales[name].astype(np.float32)
            self._add(Dequantize(made, (name,), made, scale), name)
            self._plain[name] = made
        return self._plain[name]

    def _add(self, layer: Layer, value: str) -> None:
        self._shapes[layer.output] = self._shapes[value]
        self._layers.append(layer)
