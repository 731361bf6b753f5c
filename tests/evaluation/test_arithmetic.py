"""Sharing, ranking, hits and the interval, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strzoo.data.loading import shard
from strzoo.evaluation.metric import rank
from strzoo.evaluation.results import find_hits, wilson_interval


@given(st.integers(0, 60), st.integers(1, 9))
def test_shards_cover_everything_once(count: int, world: int) -> None:
    parts = [shard(range(100, 100 + count), rank, world) for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(100, 100 + count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_equal_outputs_rank_by_class_number() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0, 1.0, -1.0]])
    ranked, own, losses = rank(logits, torch.tensor([[2]]), torch.tensor([0, 5, 6]))
    assert ranked.tolist() == [[1, 2, 4, 0, 5]]
    assert own is not None
    assert own.tolist() == [[0, 5, 6]]
    total = 3 * math.exp(3) + 2 * math.exp(1) + 1 + math.exp(-1)
    assert float(losses) == pytest.approx(math.log(total) - 3)


def test_hits_count_an_image_once() -> None:
    ranked = np.array([[4, 2, 7], [1, 0, 3], [-1, -1, -1]])
    labels = np.array([[2, 7], [5, -1], [1, -1]])
    assert find_hits(ranked, labels).tolist() == [
        [False, True, False],
        [False, False, False],
        [False, False, False],
    ]


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I: Wilson's method
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_confidence_interval_is_wilsons(
    correct: int, images: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, images) == pytest.approx((low, high), abs=5e-5)
