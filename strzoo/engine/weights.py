"""Tables of nonzero weights, in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from strzoo.engine.graph import Convolution
from strzoo.engine.taps import Taps

ENTRY = np.dtype([("offset", "<i4"), ("weight", "<f4")])
DEPTHWISE_TAPS = 25  # more do not fit the registers
DEPTHWISE_DENSITY = 0.4
PARTS = 32  # of the rows of a layer, of equal work; what threads share is a number of parts


def is_depthwise(layer: Convolution) -> bool:
    """Whether the depthwise kernel runs the layer: few taps, hardly pruned, no residual."""
    weight = layer.weight
    return bool(
        layer.groups > 1
        and weight.shape[1] == 1
        and weight.shape[2] * weight.shape[3] <= DEPTHWISE_TAPS
        and np.count_nonzero(weight) > DEPTHWISE_DENSITY * weight.size
        and len(layer.inputs) == 1
    )


@dataclass(frozen=True, eq=False)
class Nonzeros:
    """The nonzero weights of a convolution: row (output channel), plane of the input (channel and
    phase), byte offset of the tap within the plane, and value. Sorted by row, then plane."""

    rows: int
    planes: int  # input channels times phases
    phases: int
    row: np.ndarray
    plane: np.ndarray
    tap: np.ndarray
    weight: np.ndarray

    @property
    def count(self) -> int:
        return len(self.weight)

    def rows_from(self, first: int) -> Nonzeros:
        """Those of the rows from `first` on, counted from there."""
        kept = self.row >= first
        arrays = (self.row[kept] - first, self.plane[kept], self.tap[kept], self.weight[kept])
        return Nonzeros(self.rows - first, self.planes, self.phases, *arrays)

    @cached_property
    def per_row(self) -> np.ndarray:
        return np.bincount(self.row, minlength=self.rows)


def find_nonzeros(layer: Convolution, taps: Taps, offsets: np.ndarray) -> Nonzeros:
    """Args: `offsets` are the bytes of each tap from its pixel, [taps]."""
    out, per_group = layer.weight.shape[:2]
    weight = layer.weight.reshape(out, per_group, -1)
    row, channel, tap = np.nonzero(weight)
    values = weight[row, channel, tap]
    channels = per_group * layer.groups
    channel = channel + row // (out // layer.groups) * per_group
    phases = len(taps.phases)
    plane = channel * phases + np.asarray(taps.phase)[tap]
    return Nonzeros(
        out,
        channels * phases,
        phases,
        row,
        plane,
        offsets[tap],
        values.astype(np.float32),
    )


@dataclass(frozen=True)
class SparseTable:
    """What the sparse kernel reads; see `emission.convolution`."""

    ends: np.ndarray
    entries: np.ndarray
    part_rows: np.ndarray
    block_planes: np.ndarray


def sparse_table(nonzeros: Nonzeros, blocks: int, plane: int, *, local: bool) -> SparseTable:
    """Entries sorted by block of input channels, then row.

    Args:
        plane: bytes between planes.
        local: planes are counted from the first of the block.
    """
    channels = nonzeros.planes // nonzeros.phases
    block_channels = np.arange(blocks + 1) * channels // blocks
    block_planes = block_channels * nonzeros.phases
    block = np.searchsorted(block_planes, nonzeros.plane, side="right") - 1
    offset = (nonzeros.plane - block_planes[block] * local) * plane + nonzeros.tap
    key = block * nonzeros.rows + nonzeros.row
    order = np.argsort(key, kind="stable") if blocks > 1 else slice(None)
    entries = np.empty(nonzeros.count, ENTRY)
    entries["offset"] = offset[order]
    entries["weight"] = nonzeros.weight[order]
    ends = np.zeros(blocks * nonzeros.rows + 1, np.int32)
    ends[1:] = np.cumsum(np.bincount(key, minlength=blocks * nonzeros.rows))
    return SparseTable(ends, entries, split_rows(nonzeros.per_row), block_planes.astype(np.int32))


def split_rows(work: np.ndarray, parts: int = PARTS, overhead: float = 3.0) -> np.ndarray:
    """int32 [parts + 1]: rows at which parts of equal work start; a row costs `overhead` more."""
    total = np.concatenate(([0.0], np.cumsum(work + overhead)))
    wanted = np.arange(parts + 1) * total[-1] / parts
    return np.searchsorted(total, wanted - 1e-9).astype(np.int32)


@dataclass(frozen=True)
class DenseTable:
    """What the dense kernel reads: groups of rows, each with an entry per input of the block."""

    ends: np.ndarray
    entries: np.ndarray  # bytes: a header of 64, then {offset, weight per row} per input
    part_rows: np.ndarray
    block_planes: np.ndarray


def dense_table(
    weight: np.ndarray,
    taps: Taps,
    offsets: np.ndarray,
    group: int,
    blocks: int,
    plane_bytes: int,
    *,
    local: bool,
) -> DenseTable:
    """Args: `weight` [rows, channels, taps], rows a multiple of `group`, zeros included."""
    rows, channels, count = weight.shape
    phases = len(taps.phases)
    block_channels = np.arange(blocks + 1) * channels // blocks
    channel, tap = np.divmod(np.arange(channels * count), count)
    plane = channel * phases + np.asarray(taps.phase)[tap]
    block = np.searchsorted(block_channels, channel, side="right") - 1
    offset = (plane - block_channels[block] * phases * local) * plane_bytes + offsets[tap]
    entry = np.dtype([("offset", "<i4"), ("weights", "<f4", (group,))])
    entries = np.empty((rows // group, channels * count), entry)
    entries["offset"] = offset
    entries["weights"] = weight.reshape(rows // group, group, -1).transpose(0, 2, 1)
    header = np.zeros(16, "<i4")
    header[0] = channels * count
    body = np.concatenate((header.view(np.uint8), entries.reshape(-1).view(np.uint8)))
    parts = split_rows(np.ones(rows // group), min(PARTS, rows // group), 0.0) * group
    return DenseTable(
        (block_channels * count).astype(np.int32),
        body,
        parts.astype(np.int32),
        (block_channels * phases).astype(np.int32),
    )


def linear_slices(weight: np.ndarray, lanes: int, pixel: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in slices of `lanes`: (int32 [slices + 1] ends, int32 [entries, 2, lanes] whose second
    half are fp32 weights). Short rows are filled up with zeros, each slice to an even count.

    Args: `pixel` is bytes from one input to the next.
    """
    rows = len(weight)
    slices = -(-rows // lanes)
    lengths = np.zeros(slices * lanes, np.int64)
    row, column = np.nonzero(weight)
    lengths[:rows] = np.bincount(row, minlength=rows)
    longest = lengths.reshape(slices, lanes).max(1)
    longest += longest % 2
    ends = np.concatenate(([0], np.cumsum(longest))).astype(np.int32)
    entries = np.zeros((int(ends[-1]), 2, lanes), np.int32)
    position = np.arange(len(row)) - np.concatenate(([0], np.cumsum(lengths)))[row]
    place = (ends[row // lanes] + position, 0, row % lanes)
    entries[place] = column * pixel
    entries.view(np.float32)[place[0], 1, place[2]] = weight[row, column]
    return ends, entries
