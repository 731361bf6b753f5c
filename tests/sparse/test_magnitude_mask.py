from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strzoo.sparse.magnitude_mask import find_bound, keep_largest, magnitude_mask_of


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 0.25, 0.5, -0.5, 1.0, -2.0, 3.0, -4.0]), min_size=1, max_size=30
    ),
    st.floats(0, 1),
    st.booleans(),
)
def test_the_exact_count_of_smallest_weights_becomes_zero_ties_included(
    values: list[float], rate: float, straight_through: bool
) -> None:
    weight = torch.tensor(values, requires_grad=True)
    kept = keep_largest(weight, rate, straight_through=straight_through)
    dropped = round(rate * len(values))
    magnitudes = sorted(abs(value) for value in values)
    # What is left is the multiset of the largest magnitudes; the rest is zero.
    expected = sorted([0.0] * dropped + magnitudes[dropped:])
    assert sorted(kept.detach().abs().tolist()) == expected
    assert all(k in (0.0, w) for k, w in zip(kept.tolist(), values, strict=True))
    kept.sum().backward()
    assert weight.grad is not None
    reached = len(values) if straight_through else len(values) - dropped
    assert int(weight.grad.sum()) == reached


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_any_precision_and_memory_layout_drops_the_smallest(
    dtype: torch.dtype, memory: torch.memory_format
) -> None:
    values = torch.arange(1, 8 * 4 * 9 + 1).float()  # whole numbers below 2^8 fit bfloat16
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    weight = (values[order] % 256).reshape(8, 4, 3, 3).to(dtype, memory_format=memory)
    kept = keep_largest(weight, 0.25, straight_through=False)
    assert kept.is_contiguous(memory_format=memory)
    assert int((kept == 0).sum()) == 72
    assert kept[kept != 0].min() >= weight[kept == 0].max()


def test_a_bound_separates_distinct_magnitudes_and_is_none_for_ties() -> None:
    assert find_bound(torch.tensor([3.0, -1.0, 2.0, -4.0]), 0.5) == 2.0
    assert find_bound(torch.tensor([3.0, -1.0, 1.0, -4.0]), 0.25) is None
    assert find_bound(torch.tensor([3.0, -1.0, 1.0, -4.0]), 0.5) == 1.0
    assert find_bound(torch.tensor([3.0, -1.0]), 1.0) == 3.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, width=16), min_size=1, max_size=40),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.data(),
)
def test_the_mask_by_histograms_keeps_what_a_sort_keeps(
    values: list[float], dtype: torch.dtype, data: st.DataObject
) -> None:
    dropped = data.draw(st.integers(0, len(values)))
    weight = torch.tensor(values, dtype=dtype)
    mask = magnitude_mask_of(weight, torch.tensor(dropped))
    assert mask.dtype == dtype
    assert int(mask.sum()) == len(values) - dropped
    # Infinite values included: the multiset of what is kept is that of the largest magnitudes.
    magnitudes = sorted(weight.abs().double().tolist())
    assert sorted(weight[mask != 0].abs().double().tolist()) == magnitudes[dropped:]


@pytest.mark.parametrize("rate", [0.0, 0.55, 0.59, 0.999, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_truncated_a_rate_drops_the_whole_number_below(rate: float, tied: bool) -> None:
    weight = torch.ones(10) if tied else torch.arange(1.0, 11.0)
    kept = keep_largest(weight, rate, straight_through=False, truncate=True)
    assert int((kept == 0).sum()) == int(rate * 10)
    if not tied:
        assert torch.equal(kept[int(rate * 10) :], weight[int(rate * 10) :])
