"""Tables of weights, in the order in which the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from strzoo.engine.codegen.rows import FOUR, REACH
from strzoo.engine.ir.fixed import FixedConvolution, split_weights
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.layout.taps import Taps

PARTS = 32  # into which the rows of a layer are divided for threads
PART_ROWS = 32  # of a sparse convolution, at least
MOST = (
    32_760  # sum of the magnitudes of four weights in fixed point, which leaves room for rounding
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
        fours: uint16 [blocks * rows]: how many times four of them go together, in fixed point.
        entries: uint16: vectors from the block's first plane to what a weight multiplies.
        weights: fp32, or int16 in fixed point.
        part_rows: int32 [parts + 1]: rows that threads can share out.
        block_planes: int32 [blocks + 1].
        order: int32 [blocks * rows]: the rows as they are computed.
    """

    ends: np.ndarray
    fours: np.ndarray
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
    key = block * rows + nonzeros.row
    order = np.argsort(key, kind="stable")
    key, offset, weight = key[order], offset[order], nonzeros.weight[order]
    counts = np.bincount(key, minlength=blocks * rows)
    fours = np.zeros(blocks * rows, np.int64)
    if nonzeros.fixed:
        again, whole = _form_fours(key, weight, blocks * rows)
        offset, weight = offset[again], weight[again]
        fours = (whole // FOUR).clip(max=np.iinfo(np.uint16).max)
    # Rows with equally many weights follow each other, so that loop ends are predicted.
    part = np.repeat(np.arange(len(parts) - 1), np.diff(parts))
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


def _form_fours(key: np.ndarray, weight: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries in fixed point, sorted by `key`, in such an order that the sum of the products of
    each four that the kernel takes at once fits 16 bits, whatever the inputs are.

    Args:
        key: of lists of entries, below `count`.

    Returns:
        The order, in which what is not part of a four comes last in each list; and for each list
        how many entries make fours.
    """
    counts = np.bincount(key, minlength=count)
    start = (np.cumsum(counts) - counts)[key]
    size, rank = np.abs(weight.astype(np.int64)), np.arange(len(key)) - start
    whole = counts // FOUR * FOUR
    place, alone = rank.copy(), counts - whole
    heavy = _heavy_fours(key, place, whole, size)
    # In lists with such a four the heaviest go alone, and each four gets some of all sizes.
    sorted_rank = np.empty_like(rank)
    sorted_rank[np.lexsort((-size, key))] = rank
    while heavy.any():
        whole = np.where(heavy, np.maximum(counts - alone, 0), whole)
        fours = np.maximum(whole // FOUR, 1)[key]
        turn, index = np.divmod(sorted_rank - alone[key], fours)
        index = np.where(turn % 2, fours - 1 - index, index)
        within = np.where(turn < 0, whole[key] + sorted_rank, index * FOUR + turn)
        place = np.where(heavy[key], within, place)
        alone = np.where(heavy, np.minimum(alone + FOUR, counts), alone)
        heavy &= _heavy_fours(key, place, whole, size)
    order = np.empty_like(rank)
    order[start + place] = np.arange(len(key))
    return order, whole


def _heavy_fours(
    key: np.ndarray, place: np.ndarray, whole: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """The lists, of which `whole` entries make fours, with a four whose weights are too large."""
    first = (np.cumsum(whole) - whole) // FOUR
    inside = place < whole[key]
    four = first[key[inside]] + place[inside] // FOUR
    sums = np.bincount(four, size[inside], minlength=int(whole.sum()) // FOUR)
    found = np.zeros(len(whole), bool)
    found[np.repeat(np.arange(len(whole)), whole // FOUR)[sums > MOST]] = True
    return found


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
