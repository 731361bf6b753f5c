"""Emulation: a convolution in fixed point at some of its pixels, sum by sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.ir.fixed import LARGEST, FixedConvolution, split_weights
from strzoo.engine.ir.fours import FOUR, MOST, form_fours
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.layout.tiling import is_depthwise
from strzoo.engine.quantization.observation import Sample
from strzoo.engine.quantization.running_sums import Rows, RunningSums

_BLOCKS = (2, 3, 4, 8)  # of input channels
_SAFE = 0.75  # of the largest number: sums that are never larger leave room enough
PARTS = 64  # of 16 bits, into which a weight may be split


@dataclass(frozen=True, eq=False)
class Trial:
    """How a convolution in fixed point did.

    Args:
        error: root mean square of the error, relative to that of the exact results.
        peak: float64 [out channels]: the largest magnitude of a sum on the way, relative to the
            largest number of 16 bits. Above 1, sums saturate too early.
    """

    error: float
    peak: np.ndarray


def input_scales(layer: Convolution, source: np.ndarray) -> np.ndarray:
    """Scales of the channels that each weight of `layer` meets, [out, in per group, 1, 1].

    Args:
        source: of all its input's channels.
    """
    out, per_group = layer.weight.shape[:2]
    scales: np.ndarray = source.reshape(layer.groups, per_group).repeat(out // layer.groups, 0)
    return scales[:, :, None, None]


def quantize_convolution(
    layer: Convolution, name: str, source: np.ndarray, target: np.ndarray
) -> FixedConvolution:
    """`layer` in fixed point, under `name`.

    Args:
        source, target: scales of its input and its output, float64 [channels].
    """
    factor = input_scales(layer, source) / target[:, None, None, None] * (1 << 15)
    most = LARGEST * (1 if is_depthwise(layer) else PARTS)
    weight = np.rint(layer.weight.astype(np.float64) * factor).clip(-most, most)
    bias = np.rint(layer.bias / target).clip(-LARGEST, LARGEST)
    limits = None
    bounds = layer.bounds
    if bounds is not None and (bounds.low, bounds.high) not in _SIMPLE:
        both = np.array([bounds.low, bounds.high]) / target[:, None]
        limits = np.rint(both.clip(-LARGEST - 1, LARGEST)).astype(np.int16)
    return FixedConvolution(
        name, layer.inputs, layer.output, weight.astype(np.int32), bias.astype(np.int16),
        layer.window, layer.groups, bounds, limits,
    )  # fmt: skip


_SIMPLE = ((0.0, float("inf")), (float("-inf"), float("inf")))


class Probe:
    """A convolution at the pixels of its sample, to be tried with various scales.

    Args:
        sums: adds up.
        peak: set to the largest magnitude of a sum on the way, float64 [out channels].
    """

    def __init__(self, layer: Convolution, sample: Sample, sums: RunningSums) -> None:
        self._layer, self._sample, self._sums = layer, sample, sums
        out, per_group = layer.weight.shape[:2]
        weight = layer.weight.reshape(out, per_group, -1)
        self._nonzero = row, channel, tap = np.nonzero(weight)
        channel = channel + row // (out // layer.groups) * per_group
        self._taps = weight.shape[2]
        self._places = channel * weight.shape[2] + tap  # in the sample
        self._ends = np.searchsorted(row, np.arange(out + 1))
        rows = Rows(self._ends, self._places, weight[self._nonzero])
        exact, self.peak = sums.exactly(rows, _flat(sample.seen), layer.bias)
        if sample.residual is not None:
            exact += sample.residual
            self.peak = np.maximum(self.peak, exact.max(1, initial=0))
        if layer.bounds is not None:
            exact = exact.clip(layer.bounds.low, layer.bounds.high)
        self._exact = exact

    def run(self, source: np.ndarray, target: np.ndarray) -> Trial:
        """Compute the pixels as the engine does, with the scales of the input and the output."""
        layer, sample = self._layer, self._sample
        fixed = quantize_convolution(layer, layer.name, source, target)
        whole = fixed.weight.reshape(*fixed.weight.shape[:2], -1)[self._nonzero]
        # The engine has no entries for weights that became 0, so they would change what is added
        # together.
        kept = np.flatnonzero(whole)
        index, parts = split_weights(whole[kept])
        index = kept[index]
        ends = np.searchsorted(index, self._ends)
        order = np.arange(len(index))
        if not is_depthwise(layer):
            order, _ = form_fours(self._nonzero[0][index], parts, len(layer.weight))
        rows = Rows(ends, self._places[index[order]], parts[order])
        given = _flat(_units(sample.seen, source[:, None, None]))
        sums, peak = self._sums.in_units(rows, given, fixed.bias)
        if not is_depthwise(layer):
            peak = np.maximum(peak, self._peak_in_blocks(index, parts, given, sums, fixed.bias))
        units = sums.clip(-LARGEST - 1, LARGEST)
        if sample.residual is not None:
            units = units + _units(sample.residual, target[:, None])
            peak = np.maximum(peak, units.max(1, initial=0))
            units = units.clip(-LARGEST - 1, LARGEST)
        found = units * target[:, None]
        if layer.bounds is not None:
            found = found.clip(layer.bounds.low, layer.bounds.high)
        size = np.sqrt(np.mean(self._exact**2))
        error = float(np.sqrt(np.mean((found - self._exact) ** 2)) / max(size, 1e-30))
        return Trial(error, peak / LARGEST)

    def _peak_in_blocks(
        self, index: np.ndarray, parts: np.ndarray, given: np.ndarray, sums: np.ndarray,
        bias: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """The largest magnitude of a sum on the way if the input channels are divided, [out
        channels]; 0 in rows that are added in the same order then, and in rows whose sums are small
        in any order.

        Fours begin anew in each block, and heavy weights come last in each. How many blocks there
        are depends on the processor and the batch; these are some of them. With more, the order is
        nearly that of the weights, in which `peak` was found.
        """
        count, channels = len(self._layer.weight), self._sample.seen.shape[0]
        row, size = self._nonzero[0][index], np.abs(parts.astype(np.int64))
        rank = np.arange(len(row)) - np.searchsorted(row, np.arange(count))[row]
        heaviest = np.where(rank < FOUR, size[np.lexsort((-size, row))], 0)
        chosen = np.bincount(row, heaviest, count) > MOST

        def take() -> tuple[np.ndarray, Rows]:
            """Which entries the chosen rows have, and these rows."""
            kept = np.flatnonzero(chosen[row])
            ends = np.searchsorted(row[kept], np.flatnonzero(chosen))
            return kept, Rows(np.append(ends, len(kept)), self._places[index[kept]], parts[kept])

        _, rows = take()
        sizes = Rows(rows.ends, rows.places, np.abs(rows.weights.astype(np.int64)))
        most, _ = self._sums.in_units(sizes, np.abs(given), np.abs(bias[chosen]))
        # The larger of what all positive and all negative products add up to.
        bound = (most + np.abs(sums[chosen])).max(1, initial=0) / 2
        chosen[chosen] = bound > _SAFE * LARGEST
        kept, rows = take()
        number, peak = (np.cumsum(chosen) - 1)[row[kept]], np.zeros(count)
        for blocks in _BLOCKS:
            edges = np.arange(blocks + 1) * channels // blocks
            block = np.searchsorted(edges, rows.places // self._taps, side="right") - 1
            key = number * blocks + block
            order, _ = form_fours(key, rows.weights, int(chosen.sum()) * blocks)
            ordered = Rows(rows.ends, rows.places[order], rows.weights[order])
            _, found = self._sums.in_units(ordered, given, bias[chosen])
            peak[chosen] = np.maximum(peak[chosen], found)
        return peak


def _flat(seen: np.ndarray) -> np.ndarray:
    """What the window sees, [in channels x taps, pixels]."""
    return seen.reshape(-1, seen.shape[2])


def _units(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    units: np.ndarray = np.rint(values / scale).clip(-LARGEST, LARGEST).astype(np.int32)
    return units
