"""Running sums of sparse rows, beside sums of whole numbers and fractions by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from strzoo.engine.quantization.running_sums import Rows, RunningSums

SUMS = RunningSums()
MOST = 32767


def by_hand(
    ends: list[int], places: list[int], weights: list[int], seen: np.ndarray, starts: list[int]
) -> tuple[list[list[int]], list[int], list[list[Fraction]], list[Fraction]]:
    """Sums and peaks in units, and exactly, each a whole number or a fraction."""
    units, peaks, exact, largest = [], [], [], []
    for first, last, start in zip(ends, ends[1:], starts, strict=False):
        row, peak, exact_row, most = [], 0, [], Fraction(0)
        for pixel in range(seen.shape[1]):
            total, real = start, Fraction(start)
            for entry in range(first, last):
                product = weights[entry] * int(seen[places[entry], pixel])
                total += (product + 2**14) // 2**15
                real += Fraction(product, 2**15)
                peak, most = max(peak, abs(total)), max(most, abs(real))
            row.append(total)
            exact_row.append(real)
        units.append(row)
        peaks.append(peak)
        exact.append(exact_row)
        largest.append(most)
    return units, peaks, exact, largest


@given(st.data())
def test_sums_and_peaks_are_those_of_whole_numbers(data: st.DataObject) -> None:
    number = st.integers(-MOST, MOST)
    counts = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    ends = [0, *np.cumsum(counts).tolist()]
    pixels, places = data.draw(st.integers(1, 19)), data.draw(st.integers(1, 4))
    weights = data.draw(st.lists(number, min_size=ends[-1], max_size=ends[-1]))
    which = data.draw(st.lists(st.integers(0, places - 1), min_size=ends[-1], max_size=ends[-1]))
    starts = data.draw(st.lists(number, min_size=len(counts), max_size=len(counts)))
    drawn = data.draw(st.lists(number, min_size=places * pixels, max_size=places * pixels))
    seen = np.array(drawn).reshape(places, pixels)
    units, peaks, exact, largest = by_hand(ends, which, weights, seen, starts)

    rows = Rows(np.array(ends), np.array(which, int), np.array(weights, int))
    sums, found = SUMS.in_units(rows, seen, np.array(starts))
    assert sums.tolist() == units
    assert found.tolist() == peaks

    # Every product is a multiple of 2^-15 below 2^15, so that float64 has no error.
    rows = Rows(np.array(ends), np.array(which, int), np.array(weights) / 2**15)
    sums, found = SUMS.exactly(rows, seen.astype(np.float64), np.array(starts))
    assert sums.tolist() == [list(map(float, row)) for row in exact]
    assert found.tolist() == list(map(float, largest))


def test_sums_beyond_32_bits_do_not_wrap() -> None:
    count = 70_000  # times 32766, more than 2^31
    rows = Rows(np.array([0, count]), np.zeros(count, int), np.full(count, -MOST))
    sums, peaks = SUMS.in_units(rows, np.full((1, 3), MOST), np.array([5]))
    # 32767^2 / 2^15 is 32766.00003.
    assert sums.tolist() == [[5 - count * 32766] * 3]
    assert peaks.tolist() == [count * 32766 - 5]


def test_threads_add_up_at_the_same_time() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 500))
    rows = Rows(np.arange(65) * 500, np.tile(np.arange(500), 64), weight.reshape(-1))
    seen = [random.standard_normal((500, 24)) for _ in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: SUMS.exactly(rows, each, np.zeros(64))[0], seen))
    for sums, each in zip(found, seen, strict=True):
        np.testing.assert_allclose(sums, weight @ each, rtol=1e-9, atol=1e-9)
