from __future__ import annotations

import math

import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNNCell, RankController, RankTarget


def test_the_allowed_rank_falls_geometrically_between_start_and_end() -> None:
    target = RankTarget(4, None, start=0.2, end=0.6)
    assert [target.allowed(p, 64, 4) for p in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)] == [
        64, 64, 32, 16, 8, 4, 4,
    ]  # fmt: skip


def test_the_smallest_columns_fade_and_the_others_are_left_alone() -> None:
    cell = FastGRNNCell(5, 6, rank_w="learned", rank_u="learned")
    m = torch.tensor([0.5, -2.0, 0.1, 1.0, -0.3])
    with torch.no_grad():
        cell.m_W.copy_(m)
    controller = RankController([cell], RankTarget(2), total_steps=200)
    ranks = []
    for step in range(1, 201):
        controller.step(step)
        ranks.append(cell.ranks[0])
    assert ranks == sorted(ranks, reverse=True)
    assert set(ranks) == {5, 4, 3, 2}
    assert controller.holding
    assert cell.m_W.tolist() == [0, -2, 0, 1, 0]
    assert cell.ranks[1] == 6
    assert cell.s_W.item() == -10


def test_the_threshold_never_passes_the_last_wanted_column() -> None:
    cell = FastGRNNCell(3, 4, rank_w="learned")
    with torch.no_grad():
        cell.m_W.copy_(torch.tensor([0.4, 0.2, 0.1]))
        cell.s_W.fill_(math.log(0.3))
    controller = RankController([cell], RankTarget(2), total_steps=10)
    controller.step(10)
    assert cell.ranks[0] == 2
    assert math.exp(cell.s_W.item()) == pytest.approx(0.18)  # 0.9 of the second largest


def test_a_target_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(UsageError, match="rank of U needs rank_u='learned'"):
        RankController([FastGRNNCell(3, 4, rank_w="learned")], RankTarget(2, 2), 10)
    with pytest.raises(UsageError, match="rank 4 of W is above its 3 columns"):
        RankController([FastGRNNCell(3, 4, rank_w="learned")], RankTarget(4), 10)
    with pytest.raises(UsageError, match="target rank_u is 0"):
        RankTarget(None, 0)
    with pytest.raises(UsageError, match=r"progress 0.5 to 0.5"):
        RankTarget(2, 2, start=0.5)
