"""Tables of weights, in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from strzoo.engine.codegen.rows import REACH
from strzoo.engine.ir.fixed import FixedConvolution, split_weights
from strzoo.engine.ir.fours import FOUR, form_fours
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.layout.taps import Taps

PARTS = 32  # into which the rows of a layer are divided for threads, at most
PART_ROWS = 32  # of a sparse convolution, at least


@dataclass(frozen=True)
class Shares:
    """How threads share the rows of a sparse convolution.

    Args:
        threads: that work on it.
        parts: of the rows that they take one at a time.
    """

    threads: int = 1
    parts: int = 1

    def cut(self, work: np.ndarray, least: int = PART_ROWS) -> tuple[np.ndarray, np.ndarray]:
        """Parts of equal work, in each of them rows with about as many weights: the processor
        guesses where loops end, and errs where that changes from row to row.

        Args:
            work: of each row.
            least: rows of a part.

        Returns:
            int32 [parts + 1]: where parts start when rows are sorted by part; and each row's part.
        """
        rows = len(work)
        parts = min(self.parts, PARTS, max(1, rows // least))
        # A thread's rows are next to each other: it writes them where it has written before.
        ranges = split_rows(work, min(self.threads, parts))
        own = np.repeat(np.arange(len(ranges) - 1), np.diff(ranges))
        order = np.lexsort((work, own))
        ends = split_rows(work[order], parts)
        part = np.empty(rows, np.int64)
        part[order] = np.repeat(np.arange(parts), np.diff(ends))
        return ends, part


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

    @property
    def fixed(self) -> bool:
        """Whether the weights are 16-bit fixed point."""
        return self.weight.dtype == np.int16

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
    weight = layer.weight.reshape(-1)
    places = np.flatnonzero(weight != 0)  # several times as fast as nonzero of three axes
    row, channel, tap = np.unravel_index(places, (out, per_group, len(offsets)))
    values = weight[places]
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
        fours: uint16 [blocks * rows]: how many times four of them go together, in fixed point.
        entries: uint16: vectors from the block's first plane to what a weight multiplies.
        weights: fp32, or int16 in fixed point.
        part_rows: int32 [parts + 1]: rows that threads can share out.
        block_planes: int32 [blocks + 1].
        order: int32 [blocks * rows]: the rows as they are computed.
        slots: uint8 [blocks * rows], in 8 bits; see `quad_weights`.
    """

    ends: np.ndarray
    fours: np.ndarray
    entries: np.ndarray
    weights: np.ndarray
    part_rows: np.ndarray
    block_planes: np.ndarray
    order: np.ndarray
    slots: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


def sparse_table(
    nonzeros: Nonzeros, blocks: int, plane: int, vector: int, shares: Shares = Shares()
) -> SparseTable:
    """Entries sorted by block of input channels, then row.

    Args:
        plane: bytes between planes, `vector` bytes of a vector.
    """
    block_planes, block, offset = cut_blocks(nonzeros, blocks, plane, vector)
    rows = nonzeros.rows
    parts, part = shares.cut(nonzeros.per_row)
    key = block * rows + nonzeros.row
    order = np.argsort(key, kind="stable")
    key, offset, weight = key[order], offset[order], nonzeros.weight[order]
    counts = np.bincount(key, minlength=blocks * rows)
    fours = np.zeros(blocks * rows, np.int64)
    if nonzeros.fixed:
        again, whole = form_fours(key, weight, blocks * rows)
        offset, weight = offset[again], weight[again]
        fours = (whole // FOUR).clip(max=np.iinfo(np.uint16).max)
    # Rows with equally many weights follow each other, so that loop ends are predicted.
    each = (array.reshape(blocks, rows) for array in (counts, fours))
    row_order = np.stack(
        [np.lexsort((count, four, part)) for count, four in zip(*each, strict=False)]
    )
    lists = (row_order + rows * np.arange(blocks)[:, None]).reshape(-1)
    place = np.empty_like(lists)
    place[lists] = np.arange(len(lists))
    order = np.argsort(place[key], kind="stable")
    ends = np.concatenate(([0], np.cumsum(counts[lists])))
    return SparseTable(
        ends.astype(np.int32),
        fours[lists].astype(np.uint16),
        offset[order].astype(np.uint16),
        weight[order],
        parts,
        block_planes.astype(np.int32),
        row_order.reshape(-1).astype(np.int32),
    )


def cut_blocks(
    nonzeros: Nonzeros, blocks: int, plane: int, vector: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first plane of each block of input channels, and the block of each weight and the vectors
    from its first plane to what the weight multiplies."""
    channels = nonzeros.planes // nonzeros.phases
    block_planes = np.arange(blocks + 1) * channels // blocks * nonzeros.phases
    block = np.searchsorted(block_planes, nonzeros.plane, side="right") - 1
    offset = ((nonzeros.plane - block_planes[block]) * plane + nonzeros.tap) // vector
    if offset.max(initial=0) >= REACH:
        raise ValueError(f"a block reads {offset.max()} vectors, {REACH} at most can be told apart")
    return block_planes, block, offset


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
