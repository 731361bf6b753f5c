"""Emulation: a convolution in fixed point at some of its pixels, sum by sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, starmap

import numpy as np

from strzoo.engine.ir.fixed import LARGEST, FixedConvolution, split_weights
from strzoo.engine.ir.fours import form_fours
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.layout.tiling import is_depthwise
from strzoo.engine.quantization.observation import Sample

# Entries that are added up at once: their sum fits 32 bits, and they fit a cache.
_BATCH = 4096
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
        peak: set to the largest magnitude of a sum on the way, float64 [out channels].
    """

    def __init__(self, layer: Convolution, sample: Sample) -> None:
        self._layer, self._sample = layer, sample
        out, per_group = layer.weight.shape[:2]
        weight = layer.weight.reshape(out, per_group, -1)
        row, channel, self._tap = np.nonzero(weight)
        self._place = (row, channel, self._tap)
        self._channel = channel + row // (out // layer.groups) * per_group
        self._ends = np.searchsorted(row, np.arange(out + 1))
        self.peak = np.zeros(out, np.float64)
        self._exact = self._compute(weight[self._place].astype(np.float64))

    def _compute(self, weight: np.ndarray) -> np.ndarray:
        """The exact results, float64 [out channels, pixels]; notes the largest sums on the way."""
        layer, sample = self._layer, self._sample
        exact = np.empty((len(layer.weight), sample.seen.shape[2]), np.float64)
        for row, part in enumerate(starmap(slice, pairwise(self._ends.tolist()))):
            terms = weight[part, None] * sample.seen[self._channel[part], self._tap[part]]
            running = np.cumsum(terms, axis=0, out=terms)
            running += layer.bias[row]
            exact[row] = running[-1] if len(running) else layer.bias[row]
            self.peak[row] = np.abs(running).max(initial=0)
        if sample.residual is not None:
            exact += sample.residual
            self.peak = np.maximum(self.peak, exact.max(1, initial=0))
        if layer.bounds is not None:
            exact = exact.clip(layer.bounds.low, layer.bounds.high)
        return exact

    def run(self, source: np.ndarray, target: np.ndarray) -> Trial:
        """Compute the pixels as the engine does, with the scales of the input and the output."""
        layer, sample = self._layer, self._sample
        fixed = quantize_convolution(layer, layer.name, source, target)
        given = _units(sample.seen, source[:, None, None])
        whole = fixed.weight.reshape(*fixed.weight.shape[:2], -1)[self._place]
        index, parts = split_weights(whole)
        ends = np.searchsorted(index, self._ends)
        if not is_depthwise(layer):
            order, _ = form_fours(self._place[0][index], parts, len(layer.weight))
            index, parts = index[order], parts[order]
        weight, channels, taps = parts.astype(np.int32), self._channel[index], self._tap[index]
        bias = fixed.bias.astype(np.int64)
        sums = np.repeat(bias[:, None], self._exact.shape[1], 1)
        peak = np.zeros(len(layer.weight), np.int64)
        for rows, starts, part in _batches(ends):
            terms = given[channels[part], taps[part]]
            terms *= weight[part, None]
            terms += 1 << 14
            terms >>= 15
            total, most, least = _add_up(terms, starts)
            sums[rows] += total
            highest, lowest = most.max(1) + bias[rows], least.min(1) + bias[rows]
            peak[rows] = np.maximum(highest, -lowest)
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


def _batches(ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, slice]]:
    """Rows with entries, where the entries of each start among those of the batch, and the batch.

    Args:
        ends: where the entries of each row start, and their end.
    """
    rows = np.flatnonzero(np.diff(ends))
    first = 0
    while first < len(rows):
        start = ends[rows[first]]
        last = int(np.searchsorted(ends[rows + 1], start + _BATCH, "right"))
        batch = rows[first : max(last, first + 1)]
        yield batch, ends[batch] - start, slice(int(start), int(ends[batch[-1] + 1]))
        first += len(batch)


def _add_up(terms: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sum of each row's terms, and the largest and the least sum on the way, [rows, pixels].

    All rows are added up in one go, of which each is a difference: exact for integers alone.

    Args:
        terms: int32 [entries, pixels], overwritten.
        starts: where those of each row begin.
    """
    np.cumsum(terms, axis=0, out=terms, dtype=terms.dtype)
    before = np.zeros((len(starts), terms.shape[1]), terms.dtype)
    before[1:] = terms[starts[1:] - 1]
    ends = np.append(starts[1:], len(terms)) - 1
    most, least = (each.reduceat(terms, starts, axis=0) for each in (np.maximum, np.minimum))
    return terms[ends] - before, most - before, least - before


def _units(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    units: np.ndarray = np.rint(values / scale).clip(-LARGEST, LARGEST).astype(np.int32)
    return units
