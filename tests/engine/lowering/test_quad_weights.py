"""Tables of weights in 8 bits hold every word once, where the kernels look for it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.quads import set_starts
from strzoo.engine.ir.graph import Window
from strzoo.engine.ir.quads import QuadConvolution
from strzoo.engine.layout.taps import window_taps
from strzoo.engine.lowering.quad_weights import find_quad_nonzeros, quad_table
from strzoo.engine.lowering.weights import Shares

VECTOR = 32  # bytes
PLANE = 30 * VECTOR  # from plane to plane, more than any tap is away


@given(
    st.integers(1, 150),
    st.integers(1, 13),
    st.sampled_from([(1, 1), (3, 3), (2, 1)]),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_the_table_rebuilds_the_weights(rows, channels, kernel, blocks, words, parts, seed):
    random = np.random.default_rng(seed)
    quads = -(-channels // 4)
    weight = random.integers(-127, 128, (rows, 4 * quads, *kernel))
    weight *= (random.random((rows, quads, *kernel)) < 0.3).repeat(4, 1)
    weight = weight[:, :channels].astype(np.int8)
    bias = np.zeros(rows, np.int32)
    layer = QuadConvolution("layer", ("x",), "y", weight, bias, Window(kernel))
    taps = window_taps(layer.window, (9, 9), (10 - kernel[0], 10 - kernel[1]))
    count = len(taps.offsets)
    nonzeros = find_quad_nonzeros(layer, taps, np.arange(count) * VECTOR)
    table = quad_table(nonzeros, blocks, PLANE, VECTOR, words, Shares(2, parts))

    groups = -(-rows // 4)
    rebuilt = np.zeros((4 * groups, 4 * quads, count), np.int8)
    ends = table.ends[:-1].reshape(blocks, -1)
    counts = np.diff(table.ends).reshape(blocks, -1)
    slots = table.slots.reshape(blocks, -1)
    assert table.part_rows[-1] == groups
    for block, order in enumerate(table.order.reshape(blocks, groups)):
        met = []
        for start, stop in itertools.pairwise(table.part_rows):
            for first in range(start, stop, words):
                members = order[first : min(first + words, stop)]
                own = slice(4 * first, 4 * first + 4 * len(members))
                assert (np.diff(counts[block, own]) >= 0).all()  # so that loop ends are guessed
                for place in range(own.start, own.stop):
                    word, byte = divmod(int(slots[block, place]), 4)
                    row = 4 * int(members[word]) + byte
                    met.append(row)
                    begin = ends[block, place]
                    for index in range(begin, begin + counts[block, place]):
                        plane, tap = divmod(int(table.entries[index]), PLANE // VECTOR)
                        plane += int(table.block_planes[block])
                        assert plane < table.block_planes[block + 1]
                        bytes_ = table.weights[index : index + 1].view(np.int8)
                        assert not rebuilt[row, 4 * plane : 4 * plane + 4, tap].any()
                        rebuilt[row, 4 * plane : 4 * plane + 4, tap] = bytes_
        assert sorted(met) == list(range(4 * groups))
    assert np.array_equal(rebuilt[:rows, :channels], weight.reshape(rows, channels, count))
    assert not rebuilt[rows:].any()
    assert not rebuilt[:, channels:].any()


def test_sets_start_with_their_part_and_after_each_other():
    starts = set_starts(np.array([0, 5, 5, 7]), 2)
    assert starts.tolist() == [0, 0, 2, 2, 4, 5, 5]
