"""Tables of weights, in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from strzoo.engine.codegen.rows import REACH
from strzoo.engine.ir.fixed import FixedConvolution, split_weights
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.layout.taps import Taps

PARTS = 32  # into which the rows of a layer are divided for threads
PART_ROWS = 32  # of a sparse convolution, at least


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
    """Args: `offsets` are the bytes of each tap from the start of its plane, [taps]."""
    out, per_group = layer.weight.shape[:2]
    weight = layer.weight.reshape(out, per_group, -1)
    row, channel, tap = np.nonzero(weight)
    values = weight[row, channel, tap]
    if isinstance(layer, FixedConvolution):
        index, values = split_weights(values)
        row, channel, tap = row[index], channel[index], tap[index]
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
        values if isinstance(layer, FixedConvolution) else values.astype(np.float32),
    )


@dataclass(frozen=True)
class SparseTable:
    """What the sparse kernel reads, for each block of input channels; see `codegen.convolution`.

    Args:
        ends: int32 [blocks * rows + 1]: where the entries of a row start, in the order of `order`.
        entries: uint16: vectors from the block's first plane to what a weight multiplies.
        weights: fp32, or int16 in fixed point.
        part_rows: int32 [parts + 1]: rows that threads can share out.
        block_planes: int32 [blocks + 1].
        order: int32 [blocks * rows]: the rows as they are computed.
    """

    ends: np.ndarray
    entries: np.ndarray
    weights: np.ndarray
    part_rows: np.ndarray
    block_planes: np.ndarray
    order: np.ndarray


def sparse_table(nonzeros: Nonzeros, blocks: int, plane: int, vector: int) -> SparseTable:
    """Entries sorted by block of input channels, then row.

    Args:
        plane: bytes between planes, `vector` bytes of a vector.
    """
    channels = nonzeros.planes // nonzeros.phases
    block_channels = np.arange(blocks + 1) * channels // blocks
    block_planes = block_channels * nonzeros.phases
    block = np.searchsorted(block_planes, nonzeros.plane, side="right") - 1
    offset = ((nonzeros.plane - block_planes[block]) * plane + nonzeros.tap) // vector
    if offset.max(initial=0) >= REACH:
        raise ValueError(f"a block reads {offset.max()} vectors, {REACH} at most can be told apart")
    rows = nonzeros.rows
    parts = split_rows(nonzeros.per_row, min(PARTS, max(1, rows // PART_ROWS)))
    # Rows with equally many weights follow each other, so that loop ends are predicted.
    counts = np.bincount(block * rows + nonzeros.row, minlength=blocks * rows).reshape(blocks, rows)
    part = np.repeat(np.arange(len(parts) - 1), np.diff(parts))
    row_order = np.stack([np.lexsort((count, part)) for count in counts])
    place = np.empty_like(row_order)
    np.put_along_axis(place, row_order, np.arange(rows)[None], axis=1)
    key = block * rows + place[block, nonzeros.row]
    order = np.argsort(key, kind="stable")
    ends = np.zeros(blocks * rows + 1, np.int32)
    ends[1:] = np.cumsum(np.bincount(key, minlength=blocks * rows))
    return SparseTable(
        ends,
        offset[order].astype(np.uint16),
        nonzeros.weight[order],
        parts,
        block_planes.astype(np.int32),
        row_order.reshape(-1).astype(np.int32),
    )


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
) -> DenseTable:
    """Args: `weight` [rows, channels, taps], rows a multiple of `group`, zeros included."""
    rows, channels, count = weight.shape
    phases = len(taps.phases)
    block_channels = np.arange(blocks + 1) * channels // blocks
    channel, tap = np.divmod(np.arange(channels * count), count)
    plane = channel * phases + np.asarray(taps.phase)[tap]
    block = np.searchsorted(block_channels, channel, side="right") - 1
    offset = (plane - block_channels[block] * phases) * plane_bytes + offsets[tap]
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
