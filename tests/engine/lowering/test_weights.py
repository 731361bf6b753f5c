"""Tables of weights hold every nonzero weight once, where the kernels look for it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.ir.fours import form_fours
from strzoo.engine.ir.graph import Convolution, Window
from strzoo.engine.layout.taps import direct_taps, window_taps
from strzoo.engine.layout.tiling import is_depthwise
from strzoo.engine.lowering.weights import (
    Shares,
    dense_table,
    find_nonzeros,
    sparse_table,
    split_rows,
)

VECTOR = 32  # bytes
PLANE = 30 * VECTOR  # from plane to plane, more than any tap is away


def make_layer(rows, channels, kernel, seed, groups=1):
    random = np.random.default_rng(seed)
    weight = random.standard_normal((rows, channels // groups, *kernel)).astype(np.float32)
    weight[random.random(weight.shape) < 0.7] = 0
    return Convolution(
        "layer", ("x",), "y", weight, np.zeros(rows, np.float32), Window(kernel), groups
    )


def test_a_window_of_stride_2_reads_each_phase_by_steps_of_one():
    # A 3x1 kernel with padding 1 reads rows 2y - 1, 2y, 2y + 1: odd rows y - 1 and y, even row y.
    taps = window_taps(Window((3, 1), (2, 1), (1, 0, 1, 0)), (6, 4), (3, 4))
    assert taps.phases == ((0, 0), (1, 0))
    assert taps.phase == (1, 0, 1)
    assert taps.offsets == ((-1, 0), (0, 0), (0, 0))
    assert (taps.rows, taps.advance, taps.outside) == (3, (1, 1), True)


def test_a_window_that_strides_itself_reads_the_map_as_it_is():
    taps = direct_taps(Window((3, 3), (2, 2), (1, 1, 1, 1)), (6, 6), (3, 3))
    assert taps.phases == ((0, 0),)
    assert taps.offsets[0] == (-1, -1)
    assert (taps.advance, taps.window, taps.outside) == ((2, 2), True, True)


@given(
    st.integers(1, 9),
    st.sampled_from([(2, 1), (4, 2), (5, 1), (6, 3)]),
    st.sampled_from([(1, 1), (3, 3), (2, 1)]),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_the_sparse_table_rebuilds_the_weights(rows, shape, kernel, blocks, seed):
    channels, groups = shape
    layer = make_layer(rows * groups, channels, kernel, seed, groups)
    taps = window_taps(layer.window, (9, 9), (10 - kernel[0], 10 - kernel[1]))
    offsets = np.arange(len(taps.offsets)) * VECTOR
    nonzeros = find_nonzeros(layer, taps, offsets)
    table = sparse_table(nonzeros, blocks, PLANE, VECTOR)
    rebuilt = np.zeros((rows * groups, channels, len(offsets)), np.float32)
    for block in range(blocks):
        order = table.order[block * rows * groups : (block + 1) * rows * groups]
        assert sorted(order) == list(range(rows * groups))
        for position, row in enumerate(order):
            place = block * rows * groups + position
            for index in range(table.ends[place], table.ends[place + 1]):
                plane, tap = divmod(int(table.entries[index]), PLANE // VECTOR)
                plane += int(table.block_planes[block])
                assert table.block_planes[block] <= plane < table.block_planes[block + 1]
                assert rebuilt[row, plane, tap] == 0
                rebuilt[row, plane, tap] = table.weights[index]
    for row in range(rows * groups):
        first = row // rows * (channels // groups)
        own = rebuilt[row, first : first + channels // groups]
        assert np.array_equal(own, layer.weight[row].reshape(own.shape))
        assert np.count_nonzero(rebuilt[row]) == np.count_nonzero(own)


def test_rows_of_a_part_go_by_their_number_of_weights():
    layer = make_layer(64, 9, (1, 1), 3)
    taps = window_taps(layer.window, (9, 9), (9, 9))
    nonzeros = find_nonzeros(layer, taps, np.zeros(1, np.int64))
    table = sparse_table(nonzeros, 1, PLANE, VECTOR, Shares(threads=2, parts=2))
    counts = np.diff(table.ends)
    assert len(table.part_rows) == 3
    for start, stop in itertools.pairwise(table.part_rows):
        assert (np.diff(counts[start:stop]) >= 0).all()


def test_a_part_has_the_same_rows_in_every_block():
    """A thread adds up the blocks of the rows of its parts, which no other may touch."""
    layer = make_layer(192, 9, (1, 1), 5)
    taps = window_taps(layer.window, (9, 9), (9, 9))
    nonzeros = find_nonzeros(layer, taps, np.zeros(1, np.int64))
    table = sparse_table(nonzeros, 3, PLANE, VECTOR, Shares(threads=2, parts=4))
    blocks = table.order.reshape(3, 192)
    assert len(table.part_rows) == 5
    for start, stop in itertools.pairwise(table.part_rows):
        assert 0 < stop - start < 192
        rows = set(blocks[0, start:stop])
        assert all(set(block[start:stop]) == rows for block in blocks)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=300),
    st.integers(1, 9),
    st.integers(1, 40),
)
def test_parts_are_of_equal_work_and_of_rows_alike(work, threads, parts):
    work = np.asarray(work)
    ends, part = Shares(threads, parts).cut(work)
    count = len(ends) - 1
    assert count == min(parts, 32, max(1, len(work) // 32))
    assert np.array_equal(np.bincount(part, minlength=count), np.diff(ends))
    total = np.bincount(part, work + 3.0, minlength=count)
    assert total.max() <= (work + 3.0).sum() / count + (work + 3.0).max()
    if threads == 1:  # no part has a row with more work than one of the next part
        for a, b in itertools.pairwise(range(count)):
            assert work[part == a].max(initial=0) <= work[part == b].min(initial=50)


def test_more_vectors_than_an_entry_can_tell_apart_are_refused():
    layer = make_layer(1, 70, (1, 1), 0)
    layer.weight[:] = 1
    taps = window_taps(layer.window, (9, 9), (9, 9))
    nonzeros = find_nonzeros(layer, taps, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="69000 vectors"):
        sparse_table(nonzeros, 1, 1000 * VECTOR, VECTOR)
    assert sparse_table(nonzeros, 2, 1000 * VECTOR, VECTOR).entries.max() == 34000


def test_the_dense_table_lists_the_weights_of_a_group_of_rows_together():
    layer = make_layer(4, 2, (1, 1), 0)
    taps = window_taps(layer.window, (5, 5), (5, 5))
    weight = layer.weight.reshape(4, 2, 1)
    table = dense_table(weight, taps, np.zeros(1, np.int64), 2, 1, PLANE)
    assert table.entries[:4].view(np.int32)[0] == 2  # inputs
    body = table.entries[64:].reshape(2, 2, 12)  # group, input, {offset, two weights}
    assert body[:, :, :4].copy().view(np.int32)[..., 0].tolist() == [[0, PLANE]] * 2
    found = body[:, :, 4:].copy().view(np.float32)
    assert np.array_equal(found[1, 0], weight[2:, 0, 0])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 8))
def test_parts_cover_the_rows_in_order_and_share_the_work(work, parts):
    bounds = split_rows(np.asarray(work), parts)
    assert bounds[0] == 0
    assert bounds[-1] == len(work)
    assert (np.diff(bounds) >= 0).all()
    total = np.asarray(work) + 3.0
    largest = max(total[a:b].sum() for a, b in itertools.pairwise(bounds))
    assert largest <= total.sum() / parts + total.max()


def test_a_depthwise_layer_that_is_mostly_zeros_runs_as_a_sparse_one():
    layer = make_layer(6, 6, (3, 3), 0, groups=6)
    layer.weight[:] = 0
    layer.weight[:2] = 1  # a third
    assert not is_depthwise(layer)
    layer.weight[:3] = 1
    assert is_depthwise(layer)


@given(st.lists(st.lists(st.integers(-32767, 32767), max_size=40), max_size=6))
def test_the_products_of_a_four_in_fixed_point_fit_16_bits(rows: list[list[int]]) -> None:
    key = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    weight = np.array([each for row in rows for each in row], np.int16)
    order, whole = form_fours(key, weight, len(rows))
    start = 0
    for number, row in enumerate(rows):
        part = order[start : start + len(row)]
        assert sorted(part) == list(range(start, start + len(row)))  # each once, none of others
        assert whole[number] % 4 == 0
        fours = weight[part[: whole[number]]].astype(int).reshape(-1, 4)
        # Inputs are 16 bits, so no product exceeds its weight by more than the rounding.
        assert (np.abs(fours).sum(1) + 4 <= 32767).all()
        if np.abs(weight[part].astype(int)).max(initial=0) <= 8000:
            assert whole[number] == len(row) // 4 * 4
        start += len(row)


def test_the_heaviest_weights_are_taken_alone_and_the_others_spread_over_the_fours() -> None:
    weight = np.array([1, 30000, 2, 3, 29000, 28000, 4, 27000, 5, 6], np.int16)
    order, whole = form_fours(np.zeros(10, int), weight, 1)
    # Two of ten are left over anyway; 28000 and 27000 fit if they are in different fours.
    assert whole.tolist() == [8]
    assert sorted(weight[order[8:]].tolist()) == [29000, 30000]
    assert {int(weight[order[k : k + 4]].max()) for k in (0, 4)} == {28000, 27000}
