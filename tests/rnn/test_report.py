from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNN, SequenceClassifier, report_rnn


def test_the_figures_of_the_paper_s_har2_network_follow_by_hand() -> None:
    # Table 12: input 9, hidden 80, 128 steps, ranks 9 and 8.
    model = SequenceClassifier(FastGRNN(9, 80, rank_w=9, rank_u=8), 2)
    made = report_rnn(model, steps=128)
    w, u, fc = 9 * 9 + 9 * 80, 80 * 8 + 8 * 80, 80 * 2
    assert {m.name: (m.params, m.rank, m.macs) for m in made.matrices} == {
        "rnn.cells.0.W": (w, 9, w), "rnn.cells.0.U": (u, 8, u), "fc": (fc, 2, fc),
    }  # fmt: skip
    assert made.params == made.nonzeros == w + u + fc + 2 * 80 + 2 + 2
    assert made.params == sum(p.numel() for p in model.parameters())
    assert made.macs_per_step == w + u
    assert made.macs == 128 * (w + u) + fc
    assert made.sparsity == 0


def test_dead_ranks_of_a_learned_matrix_count_as_zeros_in_both_factors() -> None:
    model = FastGRNN(4, 6, rank_w="learned")
    with torch.no_grad():
        model.cells[0].m_W.copy_(torch.tensor([1.0, 0.0, 0.5, 0.0]))
        model.cells[0].s_W.fill_(math.log(0.1))
    made = report_rnn(model, steps=10)
    (w, u) = made.matrices
    assert (w.rank, w.inner, w.params, w.nonzeros) == (2, 4, 4 * 4 + 4 * 6, 4 * 2 + 2 * 6)
    assert w.sparsity == 50
    assert (u.rank, u.inner, u.params) == (6, None, 36)
    folded = report_rnn(model.fold(), steps=10)
    assert folded.macs == made.sparse_macs == 10 * (20 + 36)
    assert folded.params == made.nonzeros == 20 + 36 + 12 + 2


def test_a_network_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="a GRU is no FastGRNN network"):
        report_rnn(nn.GRU(2, 3))
    with pytest.raises(UsageError, match="steps is 0"):
        report_rnn(FastGRNN(2, 3), steps=0)
