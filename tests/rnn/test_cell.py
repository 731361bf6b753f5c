from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNNCell


def test_parameters_have_the_names_shapes_and_initial_values_of_edgeml() -> None:
    torch.manual_seed(0)
    full = {k: tuple(v.shape) for k, v in FastGRNNCell(30, 40).state_dict().items()}
    assert full == {
        "W": (30, 40), "U": (40, 40), "bias_gate": (1, 40), "bias_update": (1, 40),
        "zeta": (1, 1), "nu": (1, 1),
    }  # fmt: skip
    cell = FastGRNNCell(30, 40, rank_w=5, rank_u=6)
    low = cell.state_dict()
    assert [tuple(low[k].shape) for k in ("W1", "W2", "U1", "U2")] == [
        (30, 5), (5, 40), (40, 6), (6, 40),
    ]  # fmt: skip
    assert low["bias_gate"].eq(1).all()
    assert low["bias_update"].eq(1).all()
    assert (low["zeta"].item(), low["nu"].item()) == (1.0, -4.0)
    assert float(FastGRNNCell(100, 100).state_dict()["W"].std()) == pytest.approx(0.1, rel=0.05)


def test_one_step_is_that_of_the_equations_by_hand() -> None:
    cell = FastGRNNCell(1, 1, dtype=torch.double)
    with torch.no_grad():
        cell.W.fill_(0.5)
        cell.U.fill_(-0.25)
    a = 0.5 * 2.0 - 0.25 * 0.4
    z, c = 1 / (1 + math.exp(-(a + 1))), math.tanh(a + 1)
    zeta, nu = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(4))
    x, h = (torch.tensor([[value]], dtype=torch.double) for value in (2.0, 0.4))
    assert cell(x, h).item() == pytest.approx(z * 0.4 + (zeta * (1 - z) + nu) * c, abs=1e-15)


def test_a_learned_rank_starts_full_with_ones_and_a_threshold_of_exp_minus_ten() -> None:
    cell = FastGRNNCell(4, 6, rank_w="learned", rank_u="learned")
    state = cell.state_dict()
    assert [tuple(state[k].shape) for k in ("W1", "W2", "U1", "U2", "m_W", "m_U")] == [
        (4, 4), (4, 6), (6, 6), (6, 6), (4,), (6,),
    ]  # fmt: skip
    assert state["m_W"].eq(1).all()
    assert state["s_W"].item() == state["s_U"].item() == -10
    assert cell.ranks == (4, 6)
    found = cell.effective_m("W")
    assert found is not None
    torch.testing.assert_close(found, torch.full((4,), 1 - math.exp(-10)))


def test_folding_cuts_dead_columns_and_keeps_the_outputs() -> None:
    torch.manual_seed(0)
    cell = FastGRNNCell(4, 6, rank_w="learned", rank_u="learned", dtype=torch.double)
    with torch.no_grad():
        cell.m_W.copy_(torch.tensor([0.9, -0.2, 0.1, -1.5]))
        cell.m_U.copy_(torch.linspace(-1, 1, 6))
        cell.s_W.fill_(math.log(0.21))
        cell.s_U.fill_(math.log(0.5))  # of -1, -0.6, -0.2, 0.2, 0.6, 1 four are alive
    folded = cell.fold()
    assert cell.ranks == folded.ranks == (2, 4)
    assert (folded.rank_w, folded.rank_u) == (2, 4)
    assert set(folded.state_dict()) == {
        "W1", "W2", "U1", "U2", "bias_gate", "bias_update", "zeta", "nu",
    }  # fmt: skip
    x, h = torch.randn(3, 4, dtype=torch.double), torch.randn(3, 6, dtype=torch.double)
    torch.testing.assert_close(folded(x, h), cell(x, h), rtol=0, atol=1e-14)


def test_a_matrix_that_died_folds_to_one_column_of_zeros() -> None:
    cell = FastGRNNCell(3, 5, rank_w="learned", rank_u=2, s_init=1.0)
    folded = cell.fold()
    assert cell.ranks == (0, 2)
    assert folded.W1.shape == (3, 1)
    x = torch.randn(2, 3)
    torch.testing.assert_close(folded(x), cell(x))


def test_a_cell_can_be_pickled_for_other_processes() -> None:
    cell, x = FastGRNNCell(3, 4, gate="quantSigm4", rank_u="learned"), torch.randn(2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(cell))(x), cell(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0"),
        ({"rank_w": 0}, "rank_w is 0"),
        ({"rank_u": "full"}, "rank_u is 'full'; it is a number from 1, 'learned', or None"),
        ({"gate": "step"}, "'step' is not one of sigmoid"),
    ],
)
def test_what_makes_no_cell_says_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FastGRNNCell(**{"input_size": 3, "hidden_size": 4, **arguments})
