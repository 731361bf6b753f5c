"""Tables of weights hold every nonzero weight once, where the kernels look for it."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.graph import Convolution, Window
from strzoo.engine.taps import direct_taps, window_taps
from strzoo.engine.weights import (
    dense_table,
    find_nonzeros,
    is_depthwise,
    linear_slices,
    sparse_table,
    split_rows,
)

PLANE = 1000  # bytes from plane to plane, more than any tap is away


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
    assert taps.steps == ((-1, 0), (0, 0), (0, 0))
    assert (taps.rows, taps.reach, taps.outside) == (3, (1, 0, 0, 0), True)
    assert taps.offsets(pitch=5, images=2).tolist() == [-40, 0, 0]


def test_a_window_that_strides_itself_reads_the_map_as_it_is():
    taps = direct_taps(Window((3, 3), (2, 2), (1, 1, 1, 1)), (6, 6), (3, 3))
    assert taps.phases == ((0, 0),)
    assert taps.steps[0] == (-1, -1)
    # The last window ends at row 2 * 2 - 1 + 2 = 5, the last row: nothing below is read.
    assert taps.reach == (1, 1, 0, 0)


@given(
    st.integers(1, 9),
    st.sampled_from([(2, 1), (4, 2), (5, 1), (6, 3)]),
    st.sampled_from([(1, 1), (3, 3), (2, 1)]),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_sparse_table_rebuilds_the_weights(rows, shape, kernel, blocks, local, seed):
    channels, groups = shape
    layer = make_layer(rows * groups, channels, kernel, seed, groups)
    taps = window_taps(layer.window, (9, 9), (10 - kernel[0], 10 - kernel[1]))
    offsets = taps.offsets(9, 1)
    nonzeros = find_nonzeros(layer, taps, offsets)
    table = sparse_table(nonzeros, blocks, PLANE, local=local)
    rebuilt = np.zeros((rows * groups, channels, len(offsets)), np.float32)
    for block in range(blocks):
        for row in range(rows * groups):
            place = block * rows * groups + row
            for offset, weight in table.entries[table.ends[place] : table.ends[place + 1]]:
                plane, byte = divmod(int(offset), PLANE)
                plane += int(table.block_planes[block]) if local else 0
                assert table.block_planes[block] <= plane < table.block_planes[block + 1]
                tap = offsets.tolist().index(byte)
                assert rebuilt[row, plane, tap] == 0
                rebuilt[row, plane, tap] = weight
    for row in range(rows * groups):
        first = row // rows * (channels // groups)
        own = rebuilt[row, first : first + channels // groups]
        assert np.array_equal(own, layer.weight[row].reshape(own.shape))
        assert np.count_nonzero(rebuilt[row]) == np.count_nonzero(own)


@given(st.integers(1, 40), st.integers(1, 20), st.sampled_from([4, 8, 16]), st.integers(0, 99))
def test_slices_rebuild_the_weights_of_a_fully_connected_layer(rows, inputs, lanes, seed):
    weight = make_layer(rows, inputs, (1, 1), seed).weight.reshape(rows, inputs)
    ends, entries = linear_slices(weight, lanes, 4)
    rebuilt = np.zeros((len(ends) - 1, lanes, inputs), np.float32)
    for part in range(len(ends) - 1):
        assert (ends[part + 1] - ends[part]) % 2 == 0
        for entry in entries[ends[part] : ends[part + 1]]:
            for lane in range(lanes):
                rebuilt[part, lane, entry[0, lane] // 4] += entry.view(np.float32)[1, lane]
    assert np.array_equal(rebuilt.reshape(-1, inputs)[:rows], weight)


def test_the_dense_table_lists_the_weights_of_a_group_of_rows_together():
    layer = make_layer(4, 2, (1, 1), 0)
    taps = window_taps(layer.window, (5, 5), (5, 5))
    weight = layer.weight.reshape(4, 2, 1)
    table = dense_table(weight, taps, taps.offsets(5, 1), 2, 1, PLANE, local=False)
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
