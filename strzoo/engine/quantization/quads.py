"""From a graph in fp32 to one in 8 bits: scales, which layers, and the conversions between.

Every map has one scale; each row of weights has its own. Maps that are never negative use all 256
numbers, others count from 128.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Convolution, GlobalAveragePool, Graph, Layer, Linear, MaxPool
from strzoo.engine.ir.quads import (
    MIDDLE,
    DequantizeQuads,
    QuadConvolution,
    QuadGlobalAveragePool,
    QuantizeQuads,
    count_quads,
    find_quads,
)
from strzoo.engine.ir.shapes import infer_shape
from strzoo.engine.layout.problems import choose_tilings, list_problems
from strzoo.engine.layout.tiling import Problem, choose_tiling, estimate
from strzoo.engine.quantization.fixing import Fixed, in_16_bits, worthwhile
from strzoo.engine.quantization.observation import Observation, Sample
from strzoo.engine.quantization.squares import Parts, fold_squares

LARGEST = 127  # magnitude of a weight, and of a number of a map with negative values
_MOST = 1 << 30  # magnitude of a bias


@dataclass(frozen=True)
class Numbers:
    """What the numbers of a map in 8 bits stand for: (u - zero) * scale."""

    scale: float
    zero: int


def fix_quads(graph: Graph, seen: Observation, hardware: Hardware, tolerance: float) -> Fixed:
    """`graph` with the convolutions in 8 bits for which that is faster.

    Args:
        graph: simplified, in fp32.
        seen: what it computes of calibration images.
        hardware: what it will run on.
        tolerance: the largest relative error (root mean square) that a layer may add.
    """
    numbers = _choose_numbers(graph, seen)
    gains = _gains(graph, hardware)
    errors: dict[str, float] = {}
    for layer in graph.layers:
        if isinstance(layer, Convolution) and layer.name in gains and seen.tells(layer):
            errors[layer.name] = _try(layer, seen.samples[layer.name], numbers)
    lossy = {name for name, error in errors.items() if not error <= tolerance}
    names = worthwhile(graph, errors.keys() - lossy, gains)
    fixed = _Rewriting(graph, numbers, names).run() if names else graph
    kept = {name: error for name, error in errors.items() if name in names}
    return Fixed(fixed, kept, tuple(layer.name for layer in graph.layers if layer.name in lossy))


def _choose_numbers(graph: Graph, seen: Observation) -> dict[str, Numbers]:
    """Of every map that was seen."""
    found: dict[str, Numbers] = {}
    makers = {layer.output: layer for layer in graph.layers}
    for name, each in seen.largest.items():
        maker = makers.get(name)
        if isinstance(maker, MaxPool) and maker.inputs[0] in found:
            found[name] = found[maker.inputs[0]]
            continue
        largest = max(float(each.max()), 1e-30)
        bounds = getattr(maker, "bounds", None)
        positive = False
        if bounds is not None and bounds.clamps and bounds.low >= 0:
            positive, largest = True, min(largest, bounds.high)
        found[name] = Numbers(largest / (255 if positive else LARGEST), 0 if positive else MIDDLE)
    return found


def _gains(graph: Graph, hardware: Hardware) -> dict[str, float]:
    """The cycles that each convolution that can be in 8 bits is expected to save."""
    problems = list_problems(graph, hardware, 1, 1)
    tilings = choose_tilings(problems, hardware)
    gains = {}
    for layer in graph.layers:
        known = problems.get(layer.name)
        if not isinstance(layer, Convolution) or known is None or layer.groups > 1:
            continue
        bounds = layer.bounds
        if bounds is not None and bounds.low not in (0, float("-inf")):
            continue
        before = estimate(known.problem, tilings[layer.name], hardware)
        gains[layer.name] = before - _cycles(known.problem, layer, hardware)
    return gains


def _cycles(problem: Problem, layer: Convolution, hardware: Hardware) -> float:
    """Of a layer in 8 bits."""
    living = find_quads(layer.weight)
    quads = replace(
        problem,
        planes=problem.planes // layer.weight.shape[1] * count_quads(layer.weight.shape[1]),
        nonzeros=int(np.count_nonzero(living)),
        weights=living.size,
        quads=True,
    )
    tiles = range(1, min(problem.vectors, hardware.widest_tile) + 1)
    best = [choose_tiling(quads, tile, hardware) for tile in tiles if problem.vectors % tile == 0]
    return min(estimate(quads, tiling, hardware) for tiling in best)


def quantize_convolution(
    layer: Convolution, source: Numbers, target: Numbers, residual: Numbers | None
) -> QuadConvolution:
    """`layer` in 8 bits."""
    weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    largest = np.abs(weight).max((1, 2, 3)) / LARGEST
    # A row without weights is its bias alone, which must fit.
    scale = np.maximum(np.maximum(largest, np.abs(bias) / (source.scale * _MOST)), 1e-30)
    numbers = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    whole = np.rint(bias / (source.scale * scale))
    whole -= source.zero * numbers.sum((1, 2, 3), dtype=np.int64)
    shift, factor = float(target.zero), 0.0
    if residual is not None:
        factor = residual.scale / target.scale
        shift -= residual.zero * factor
    return QuadConvolution(
        layer.name, layer.inputs, layer.output, numbers, whole.astype(np.int32), layer.window,
        layer.groups, layer.bounds, (source.scale * scale / target.scale).astype(np.float32),
        factor, shift, source.zero, target.zero,
    )  # fmt: skip


def _try(layer: Convolution, sample: Sample, numbers: dict[str, Numbers]) -> float:
    """The error that the layer in 8 bits adds at the pixels of its sample, relative (root mean
    square)."""
    source, target = numbers[layer.inputs[0]], numbers[layer.output]
    residual = numbers[layer.inputs[1]] if len(layer.inputs) > 1 else None
    fixed = quantize_convolution(layer, source, target, residual)
    assert fixed.scales is not None
    seen = sample.seen.reshape(-1, sample.seen.shape[2]).astype(np.float64)
    exact = layer.weight.reshape(len(layer.weight), -1) @ seen + layer.bias[:, None]
    sums = fixed.weight.reshape(len(layer.weight), -1).astype(np.float64) @ _units(seen, source)
    found = (sums + fixed.bias[:, None]) * fixed.scales[:, None] + fixed.shift
    if residual is not None and sample.residual is not None:
        exact = exact + sample.residual
        found += _units(sample.residual, residual) * fixed.residual_scale
    if layer.bounds is not None:
        exact = exact.clip(layer.bounds.low, layer.bounds.high)
    result = (np.rint(found).clip(0, 255) - target.zero) * target.scale
    size = np.sqrt(np.mean(exact**2))
    return float(np.sqrt(np.mean((result - exact) ** 2)) / max(size, 1e-30))


def _units(values: np.ndarray, numbers: Numbers) -> np.ndarray:
    units: np.ndarray = np.rint(values / numbers.scale + numbers.zero).clip(0, 255)
    return units


class _Rewriting:
    """Writes the layers of a graph anew, those called `names` in 8 bits."""

    def __init__(self, graph: Graph, numbers: dict[str, Numbers], names: set[str]) -> None:
        self._graph, self._numbers, self._names = graph, numbers, names
        self._layers: list[Layer] = []
        self._shapes = dict(graph.shapes)
        self._own: set[str] = set()  # values that are in 8 bits themselves
        self._copies: dict[tuple[str, bool], str] = {}  # a value in the other form

    def run(self) -> Graph:
        graph = self._graph
        for layer in graph.layers:
            given = layer.inputs[0]
            if isinstance(layer, Convolution) and layer.name in self._names:
                self._convolution(layer)
            elif isinstance(layer, MaxPool) and self._is_positive(given):
                self._layers.append(layer)
                self._own.add(layer.output)
            elif isinstance(layer, GlobalAveragePool) and given in self._own:
                made = self._numbers[given]
                self._layers.append(
                    QuadGlobalAveragePool(
                        layer.name, layer.inputs, layer.output, layer.flat, made.scale, made.zero
                    )
                )
            else:
                inputs = tuple(self._in(name, quads=False) for name in layer.inputs)
                layer = replace(layer, inputs=inputs)
                self._layers.append(in_16_bits(layer) if isinstance(layer, Linear) else layer)
        output = self._in(graph.output, quads=False)
        # In the order in which they are made, as all graphs have them.
        made_values = (graph.input, *(layer.output for layer in self._layers))
        shapes = {name: self._shapes[name] for name in made_values}
        return replace(graph, output=output, shapes=shapes, layers=tuple(self._layers))

    def _is_positive(self, name: str) -> bool:
        """Whether the value is in 8 bits, with 0 for the least number."""
        return name in self._own and not self._numbers[name].zero

    def _convolution(self, layer: Convolution) -> None:
        numbers = [self._numbers[name] for name in layer.inputs]
        residual = numbers[1] if len(numbers) > 1 else None
        given, folded = self._graph.input, None
        if layer.inputs == (given,) and self._has_one_reader(given):
            folded = fold_squares(layer, self._shapes[given])
        if folded is None:
            inputs = tuple(self._in(name, quads=True) for name in layer.inputs)
        else:
            layer, parts = folded
            inputs = (self._convert(given, QuantizeQuads, parts=parts),)
        fixed = quantize_convolution(layer, numbers[0], self._numbers[layer.output], residual)
        self._layers.append(replace(fixed, inputs=inputs))
        self._own.add(layer.output)

    def _has_one_reader(self, name: str) -> bool:
        readers = sum(name in layer.inputs for layer in self._graph.layers)
        return readers == 1 and name not in self._graph.outputs

    def _in(self, name: str, *, quads: bool) -> str:
        """The value in 8 bits, or in fp32."""
        if (name in self._own) == quads:
            return name
        if (name, quads) not in self._copies:
            kind = QuantizeQuads if quads else DequantizeQuads
            self._copies[name, quads] = self._convert(name, kind)
        return self._copies[name, quads]

    def _convert(
        self, name: str, kind: type[QuantizeQuads | DequantizeQuads], **fields: Parts
    ) -> str:
        """Add a layer that brings the value into the other form."""
        made = f"{name} in {'8 bits' if kind is QuantizeQuads else 'fp32'}"
        while made in self._shapes:
            made += "'"
        numbers = self._numbers[name]
        layer = kind(made, (name,), made, numbers.scale, numbers.zero, **fields)
        self._shapes[made] = infer_shape(layer, [self._shapes[name]])
        self._layers.append(layer)
        return made
