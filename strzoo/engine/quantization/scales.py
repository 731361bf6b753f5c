"""Scales: what one unit of each channel of each map in fixed point stands for.

A map's scale leaves room above the largest value that was seen, because other images have larger
ones and because sums on the way can be larger than the result. It starts at `HEADROOM` and is
raised in the channels in which a sum was seen to leave less than `ROOM`. Maps that are added to
each other have one scale, so a sum needs no conversion; so have the input and the output of a max
pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from strzoo.engine.hardware import default_threads
from strzoo.engine.ir.classes import Classes
from strzoo.engine.ir.fixed import LARGEST
from strzoo.engine.ir.graph import Convolution, Graph, MaxPool
from strzoo.engine.layout.tiling import is_depthwise
from strzoo.engine.quantization.emulation import Probe, Trial, input_scales
from strzoo.engine.quantization.observation import Observation
from strzoo.engine.quantization.running_sums import compile_sums

HEADROOM = 2.0
ROOM = 1.25  # of the largest sum on the way that was seen
ROUNDS = 4
_AT_ONCE = 8  # convolutions that are tried; each takes up to some 100 MB
_SMALLEST = 1e-6  # scale, relative to the largest of the map: of channels that are always zero


class Scales:
    """The scales of the values of `graph` that are in fixed point.

    Args:
        fixed: the convolutions that run in fixed point, by name.
    """

    def __init__(self, graph: Graph, seen: Observation, fixed: Iterable[str]) -> None:
        self._seen, self._shared = seen, Classes[str]()
        names = set(fixed)
        self._layers = [
            layer
            for layer in graph.layers
            if isinstance(layer, Convolution) and layer.name in names
        ]
        made = {layer.output for layer in self._layers}
        for layer in graph.layers:
            if isinstance(layer, MaxPool) and layer.inputs[0] in made:
                made.add(layer.output)
                self._shared.join(layer.output, layer.inputs[0])
        for convolution in self._layers:
            if len(convolution.inputs) > 1 and convolution.inputs[1] in made:
                self._shared.join(convolution.output, convolution.inputs[1])
        self._scales: dict[str, np.ndarray] = {}
        for name, largest in seen.largest.items():
            root = self._shared.find(name)
            scale = HEADROOM * largest.astype(np.float64) / LARGEST
            scale = np.maximum(scale, self._scales.get(root, scale))
            self._scales[root] = np.maximum(scale, max(_SMALLEST * scale.max(), 1e-30))
        self._fit()

    def __getitem__(self, value: str) -> np.ndarray:
        """float64 [channels]."""
        return self._scales[self._shared.find(value)]

    def settle(self) -> dict[str, Trial]:
        """Raise the scales of channels whose sums would saturate on the way; returns how each
        convolution does then."""
        with ThreadPoolExecutor(min(default_threads(), _AT_ONCE)) as pool:
            return self._settle(pool)

    def _settle(self, pool: ThreadPoolExecutor) -> dict[str, Trial]:
        trials: dict[str, Trial] = {}
        sums, samples = compile_sums(), self._seen.samples
        made = pool.map(lambda layer: Probe(layer, samples[layer.name], sums), self._layers)
        probes = {layer.name: probe for layer, probe in zip(self._layers, made, strict=True)}
        for layer in self._layers:
            root, needed = self._shared.find(layer.output), ROOM * probes[layer.name].peak / LARGEST
            self._scales[root] = np.maximum(self._scales[root], needed)
        self._fit()
        stale = {layer.name for layer in self._layers}
        for _ in range(ROUNDS):
            layers = [layer for layer in self._layers if layer.name in stale]
            runs = [
                pool.submit(probes[layer.name].run, self[layer.inputs[0]], self[layer.output])
                for layer in layers
            ]
            trials |= {layer.name: run.result() for layer, run in zip(layers, runs, strict=True)}
            peaks: dict[str, np.ndarray] = {}
            for layer in self._layers:
                root, peak = self._shared.find(layer.output), trials[layer.name].peak
                peaks[root] = np.maximum(peak, peaks.get(root, peak))
            changed = {root for root, peak in peaks.items() if (ROOM * peak > 1.001).any()}
            if not changed:
                break
            for root in changed:
                self._scales[root] = self._scales[root] * np.maximum(1, ROOM * peaks[root])
            self._fit()
            stale = {
                layer.name
                for layer in self._layers
                if {self._shared.find(layer.output), self._shared.find(layer.inputs[0])} & changed
            }
        return trials

    def _fit(self) -> None:
        """Raise the scales of outputs until every number fits 16 bits."""
        for _ in range(len(self._layers) + 1):
            changed = False
            for layer in self._layers:
                needed = _least_scale(layer, self[layer.inputs[0]])
                if (needed > self[layer.output]).any():
                    changed = True
                    root = self._shared.find(layer.output)
                    self._scales[root] = np.maximum(needed, self._scales[root])
            if not changed:
                return


def _least_scale(layer: Convolution, source: np.ndarray) -> np.ndarray:
    """The least scale of each output channel with which the bias fits 16 bits, and so do the
    weights of a depthwise convolution; others can be split."""
    biases: np.ndarray = np.abs(layer.bias) / LARGEST * 1.001
    if not is_depthwise(layer):
        return biases
    heaviest = (np.abs(layer.weight) * input_scales(layer, source)).max((1, 2, 3))
    return np.maximum(heaviest * 1.001, biases)
