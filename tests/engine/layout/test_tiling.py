"""The cost model: hand-computed cases, and how costs move with what a layer has to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.codegen.rows import REACH
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Convolution, Window
from strzoo.engine.layout.buffers import Blocking
from strzoo.engine.layout.patches import fits_rows
from strzoo.engine.layout.taps import window_taps
from strzoo.engine.layout.tiling import (
    Problem,
    Tiling,
    candidates,
    choose_tile,
    choose_tiling,
    estimate,
    rank_tiles,
    widen,
)

HARDWARE = Hardware(16, 32, level1=32 * 1024, level2=512 * 1024)
# 28x28 pixels in 16 blocks of 7x7: 49 vectors.
BLOCKING = Blocking((4, 4), (7, 7))
POINT = window_taps(Window((1, 1)), (28, 28), (28, 28))
THREE = window_taps(Window((3, 3), pads=(1, 1, 1, 1)), (28, 28), (28, 28))
LAYER = Problem(BLOCKING, POINT, rows=64, planes=32, nonzeros=200, weights=2048)
# Rows of 7 vectors: 7 tiles, whose input, 7 x 32 vectors of 64 bytes, fits the L1 cache.
RESULTS = 64 * 49 * 7.0


def test_a_sparse_layer_costs_its_weights_rows_and_results() -> None:
    # 200 weights: a multiplication for each of 49 vectors, and their own cost for each of 7 tiles.
    expected = 200 * (0.6 * 49 + 0.95 * 7) + 64 * 2.0 * 7 + RESULTS
    assert estimate(LAYER, Tiling(7), HARDWARE) == pytest.approx(expected) == 30058


def test_a_dense_layer_shares_loads_but_multiplies_by_all_weights() -> None:
    # Two rows at once: half the loads are fewer cycles than a multiplication takes at best.
    expected = 2048 * (0.52 * 49 + 0.95 / 2 * 7) + 64 * 2.0 / 2 * 7 + RESULTS
    assert estimate(LAYER, Tiling(7, 1, 2), HARDWARE) == pytest.approx(expected)


def test_blocks_of_channels_cost_partial_sums() -> None:
    more = 64 * 2.0 * 7 + 64 * 49 * 2.1
    without = estimate(LAYER, Tiling(7), HARDWARE)
    assert estimate(LAYER, Tiling(7, 2), HARDWARE) == pytest.approx(without + more)


def test_input_beyond_the_caches_is_dearer() -> None:
    # Half of 14,336 bytes is in the L1 cache, the other half in the L2 cache, or half of that.
    small = replace(HARDWARE, level1=7168)
    expected = 200 * ((0.6 + 1.3) / 2 * 49 + 6.65) + 64 * 2.0 * 7 + RESULTS
    assert estimate(LAYER, Tiling(7), small) == pytest.approx(expected)
    smaller = replace(small, level2=13440)  # of which 0.8 are 10,752: three quarters
    expected += 200 * (2.0 - 1.3) / 4 * 49
    assert estimate(LAYER, Tiling(7), smaller) == pytest.approx(expected)


def test_patches_cost_what_is_copied() -> None:
    # A row of 7 outputs reads 3 x 9 vectors of each of 32 planes, 55,296 bytes.
    near = 32 * 1024 / 55296
    load = 0.6 * near + 1.3 * (1 - near)
    expected = 200 * (load * 49 + 6.65) + 64 * 2.0 * 7 + RESULTS + 32 * 7 * 27 * 2.9
    assert estimate(replace(LAYER, taps=THREE), Tiling(7), HARDWARE) == pytest.approx(expected)


def test_threads_wait_for_the_last_tile_and_read_what_others_wrote() -> None:
    one = estimate(LAYER, Tiling(7), HARDWARE)
    # Seven tiles on two threads: the last is shared, 96 planes of 7 vectors are another core's.
    two = replace(LAYER, threads=2)
    assert estimate(two, Tiling(7), HARDWARE) == pytest.approx(one + 6 * 96 * 7)
    # Tiles of 14: four of them, 56 vectors for 49.
    alone = estimate(LAYER, Tiling(14), HARDWARE)
    assert estimate(two, Tiling(14), HARDWARE) == pytest.approx(alone * 56 / 49)


problems = st.builds(
    lambda taps, rows, planes, nonzeros, threads: Problem(
        BLOCKING, taps, rows, planes, min(nonzeros, rows * planes), rows * planes, threads=threads
    ),
    st.sampled_from([POINT, THREE]),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 5000),
    st.integers(1, 4),
)


@given(problems, st.sampled_from([1, 7, 14]), st.integers(1, 4))
def test_more_work_and_smaller_caches_never_cost_less(
    problem: Problem, tile: int, blocks: int
) -> None:
    tiling = Tiling(tile, blocks)
    cost = estimate(problem, tiling, HARDWARE)
    assert cost > 0
    assert estimate(replace(problem, nonzeros=problem.nonzeros + 1), tiling, HARDWARE) > cost
    assert estimate(replace(problem, rows=problem.rows + 1), tiling, HARDWARE) > cost
    assert estimate(problem, tiling, replace(HARDWARE, level1=1024)) >= cost
    assert estimate(problem, tiling, replace(HARDWARE, level2=1 << 30)) <= cost
    dense = replace(tiling, group=2)
    other = replace(problem, nonzeros=0)
    assert estimate(problem, dense, HARDWARE) == estimate(other, dense, HARDWARE)


@given(problems, st.sampled_from([1, 7, 14]))
def test_the_choice_is_the_cheapest_candidate_that_entries_can_reach(
    problem: Problem, tile: int
) -> None:
    options = candidates(problem, tile, HARDWARE)
    chosen = choose_tiling(problem, tile, HARDWARE)
    assert chosen in options
    costs = [estimate(problem, option, HARDWARE) for option in options]
    assert estimate(problem, chosen, HARDWARE) == min(costs)
    for option in options:
        channels = -(-problem.planes // option.channel_blocks)
        assert channels * problem.read(tile) <= REACH


def test_a_layer_of_few_zeros_runs_dense_and_one_of_many_sparse() -> None:
    full = replace(LAYER, nonzeros=LAYER.weights)
    assert choose_tiling(full, 3, HARDWARE).group > 1
    assert choose_tiling(replace(LAYER, nonzeros=LAYER.weights // 20), 3, HARDWARE).group == 1


def test_tiles_are_ranked_by_what_all_layers_that_write_them_cost_together() -> None:
    layers = [LAYER, replace(LAYER, taps=THREE, nonzeros=1000)]
    ranked = rank_tiles(layers, HARDWARE)
    costs = [
        sum(estimate(p, choose_tiling(p, tile, HARDWARE), HARDWARE) for p in layers)
        for tile in ranked
    ]
    assert costs == sorted(costs)
    assert all(fits_rows(tile, BLOCKING) and tile <= 28 for tile in ranked)
    assert choose_tile(layers, BLOCKING, HARDWARE, 1, whole_rows=True) == ranked[0]


def test_tiles_that_no_convolution_writes_are_small_and_enough_for_all_threads() -> None:
    assert choose_tile([], BLOCKING, HARDWARE, 1, whole_rows=True) == 7
    assert choose_tile([], BLOCKING, HARDWARE, 12, whole_rows=False) == 5  # 49 / 12, rounded up


def _layer(rows: int, channels: int) -> Convolution:
    weight = np.zeros((rows, channels, 3, 3), np.float32)
    weight[:, : channels // 4, 1, 1] = 1.0
    window = Window((3, 3), pads=(1, 1, 1, 1))
    return Convolution("conv", ("x",), "y", weight, np.zeros(rows, np.float32), window)


def test_blocks_of_prime_width_become_wider_for_the_sake_of_larger_tiles() -> None:
    avx2 = Hardware(8, 16, level1=32 * 1024, level2=512 * 1024)
    assert avx2.widest_tile == 14
    # 37 has no divisor up to 14 but 1. 39 = 3 * 13, and 38, 40 and 42 cost more or less little.
    chosen = widen(Blocking((4, 2), (19, 37)), [_layer(8, 128)], avx2)
    assert chosen == Blocking((4, 2), (19, 39))
    for good in ((14, 28), (28, 56), (2, 14), (7, 7), (4, 2)):
        assert widen(Blocking((4, 2), good), [_layer(8, 128)], avx2).block == good
    # Depthwise layers alone have tiles as well.
    assert widen(Blocking((4, 2), (19, 37)), [], avx2).block[1] > 37


@given(high=st.integers(1, 40), wide=st.integers(1, 160), lanes=st.sampled_from([8, 16]))
def test_wider_blocks_cover_the_map_and_are_few(high: int, wide: int, lanes: int) -> None:
    hardware = replace(HARDWARE, lanes=lanes, registers=2 * lanes)
    blocking = Blocking((lanes // 2, 2), (high, wide))
    chosen = widen(blocking, [_layer(4, 64)], hardware)
    assert chosen.grid == blocking.grid
    assert chosen.block[0] == high
    assert wide <= chosen.block[1] <= wide + max(2, wide // 8)

    def largest(width: int) -> int:
        shape = replace(blocking, block=(high, width))
        return max(t for t in range(1, hardware.widest_tile + 1) if fits_rows(t, shape))

    if chosen != blocking:
        assert largest(chosen.block[1]) > largest(wide)
