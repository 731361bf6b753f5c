"""Window arithmetic, against torch and by hand."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from strzoo.engine.ir.graph import AveragePool, Window
from strzoo.engine.ir.windows import count_averaged, count_positions, find_overhang, pad_same


@given(
    size=st.integers(1, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    pad=st.integers(0, 2),
    ceil=st.booleans(),
)
def test_output_sizes_are_those_of_torch(
    size: int, kernel: int, stride: int, dilation: int, pad: int, ceil: bool
) -> None:
    assume(pad <= kernel // 2 and dilation * (kernel - 1) < size + 2 * pad)
    shape = torch.nn.MaxPool1d(kernel, stride, pad, dilation, ceil_mode=ceil)(
        torch.zeros(1, 1, size)
    ).shape
    more = find_overhang(size, kernel, stride, pad, pad, dilation) if ceil else 0
    assert count_positions(size, kernel, stride, pad, pad + more, dilation) == shape[2]


def test_same_padding_rounds_the_size_up_and_puts_the_odd_one_where_it_is_told() -> None:
    # 7 pixels at stride 2 give 4; windows of 3 span 9, two more than there are.
    assert pad_same(7, 3, 2, 1, upper=True) == (1, 1)
    # 6 at stride 2 give 3; windows of 3 span 7, one more.
    assert pad_same(6, 3, 2, 1, upper=True) == (0, 1)
    assert pad_same(6, 3, 2, 1, upper=False) == (1, 0)
    # A stride beyond the kernel leaves pixels out and pads nothing.
    assert pad_same(7, 1, 3, 1, upper=True) == (0, 0)


def test_averages_divide_by_what_counts() -> None:
    # One axis of 4 pixels with one of padding on each side, windows of 3 at stride 2 and, rounded
    # up, a column beyond: pixels seen are (-1 0 1), (1 2 3), (3 4 5).
    window = Window((1, 3), (1, 2), (0, 1, 0, 2))
    source = (1, 1, 4)
    inside = count_averaged(AveragePool("p", ("x",), "p", window), source)
    np.testing.assert_array_equal(inside, [[2, 3, 1]])
    padded = AveragePool("p", ("x",), "p", window, count_padding=True)
    np.testing.assert_array_equal(count_averaged(padded, source), [[3, 3, 3]])
    rounded = AveragePool("p", ("x",), "p", window, count_padding=True, overhang=(0, 1))
    np.testing.assert_array_equal(count_averaged(rounded, source), [[3, 3, 2]])
