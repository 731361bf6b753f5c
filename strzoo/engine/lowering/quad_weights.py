"""Tables of weights in 8 bits, four of them a word, in the order in which the kernels read them."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.quads import set_starts
from strzoo.engine.ir.quads import QUAD, QuadConvolution, count_quads
from strzoo.engine.layout.taps import Taps
from strzoo.engine.lowering.weights import PART_ROWS, Nonzeros, Shares, SparseTable, cut_blocks


def find_quad_nonzeros(layer: QuadConvolution, taps: Taps, offsets: np.ndarray) -> Nonzeros:
    """Those in 8 bits: a weight is the word of four input channels, and a plane holds as many. Rows
    are filled up to a multiple of four."""
    out, channels = layer.weight.shape[:2]
    words = np.zeros((out, QUAD * count_quads(channels), len(offsets)), np.int8)
    words[:, :channels] = layer.weight.reshape(out, channels, -1)
    # [out, quads, taps] of the four bytes of a word
    parts = words.reshape(out, -1, QUAD, len(offsets)).transpose(0, 1, 3, 2)
    weight = np.ascontiguousarray(parts).view("<i4")[..., 0]
    row, quad, tap = np.nonzero(weight)
    phases = len(taps.phases)
    return Nonzeros(
        QUAD * count_quads(out),
        count_quads(channels) * phases,
        phases,
        row,
        quad * phases + np.asarray(taps.phase)[tap],
        offsets[tap],
        weight[row, quad, tap],
    )


def quad_table(
    nonzeros: Nonzeros,
    blocks: int,
    plane: int,
    vector: int,
    words: int,
    shares: Shares,
) -> SparseTable:
    """As `sparse_table`, for rows that are computed in words of four: `order` and `part_rows` count
    words, `ends` rows. In each set of `words` words, which starts with its part or after another
    set, rows are sorted by weights; `slots` says which of the set's rows each is, in `order`."""
    block_planes, block, offset = cut_blocks(nonzeros, blocks, plane, vector)
    rows, groups = nonzeros.rows, nonzeros.rows // QUAD
    counts = np.bincount(block * rows + nonzeros.row, minlength=blocks * rows)
    parts, part = shares.cut(nonzeros.per_row.reshape(groups, QUAD).sum(1), PART_ROWS // QUAD)
    order = np.stack(
        [np.lexsort((work, part)) for work in counts.reshape(blocks, groups, QUAD).sum(2)]
    )
    each = (order[:, :, None] * QUAD + np.arange(QUAD)).reshape(blocks, rows)
    lists = np.ravel(each + rows * np.arange(blocks)[:, None])
    starts = QUAD * np.repeat(set_starts(parts, words), QUAD)
    first = np.ravel(starts + rows * np.arange(blocks)[:, None])  # list of the set of each
    by_count = np.lexsort((counts[lists], first))
    lists, slots = lists[by_count], by_count - first
    place = np.empty_like(lists)
    place[lists] = np.arange(len(lists))
    sorted_ = np.argsort(place[block * rows + nonzeros.row], kind="stable")
    return SparseTable(
        np.concatenate(([0], np.cumsum(counts[lists]))).astype(np.int32),
        np.zeros(0, np.uint16),
        offset[sorted_].astype(np.uint16),
        nonzeros.weight[sorted_],
        parts,
        block_planes.astype(np.int32),
        order.reshape(-1).astype(np.int32),
        slots.astype(np.uint8),
    )
