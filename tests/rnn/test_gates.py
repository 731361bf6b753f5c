from __future__ import annotations

import numpy as np
import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn.gates import GATES, find_gate
from tests.helpers.fastgrnn import GATES as EXPECTED
from tests.helpers.fastgrnn import gradient

POINTS = np.array([-3.7, -1.9, -1.2, -0.6, -0.1, 0.2, 0.7, 1.3, 2.2, 5.0])


@pytest.mark.parametrize("name", GATES)
def test_a_gate_and_its_slope_are_those_of_its_formula(name: str) -> None:
    gate, expected = find_gate(name), EXPECTED[name]
    kernels, value, slope = gate.kernels(np.float64), POINTS.copy(), np.empty_like(POINTS)
    kernels.apply(value)
    kernels.slope(value, slope)
    np.testing.assert_allclose(value, expected(POINTS), rtol=0, atol=1e-15)
    np.testing.assert_allclose(gate.torch(torch.from_numpy(POINTS)), value, rtol=0, atol=1e-15)
    derivative = gradient(lambda x: expected(x).sum(), POINTS)
    np.testing.assert_allclose(slope, derivative, rtol=0, atol=1e-14)


def test_the_piecewise_linear_gates_clip_where_edgeml_clips() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert find_gate("quantTanh").torch(x).tolist() == [-1, -1, 0, 1, 1]
    assert find_gate("quantSigm").torch(x).tolist() == [0, 0, 0.5, 1, 1]
    assert find_gate("quantSigm4").torch(x).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_large_arguments_neither_overflow_nor_warn() -> None:
    value = np.array([-1e4, 1e4], np.float32)
    with np.errstate(all="raise"):
        find_gate("sigmoid").kernels(np.float32).apply(value)
    assert value.tolist() == [0, 1]


def test_an_unknown_gate_is_answered_with_the_choices() -> None:
    with pytest.raises(UsageError, match="'hardswish' is not one of sigmoid, tanh, relu"):
        find_gate("hardswish")
