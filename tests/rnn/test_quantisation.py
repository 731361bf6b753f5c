from __future__ import annotations

import pytest
import torch

from strzoo.errors import IntegrityError
from strzoo.rnn import FastGRNN, SequenceClassifier, quantise


def test_the_size_counts_int8_weights_scales_and_float_vectors() -> None:
    # The paper's HAR-2 network at ranks 9 and 8: every number is derived from its shapes.
    model = SequenceClassifier(FastGRNN(9, 80, rank_w=9, rank_u=8), 2)
    made = quantise(model)
    weights = 9 * 9 + 9 * 80 + 80 * 8 + 8 * 80 + 80 * 2
    scales = 9 + 80 + 8 + 80 + 2
    vectors = 80 + 80 + 1 + 1 + 2
    assert made.bytes == weights + 4 * (scales + vectors)
    assert made.kilobytes == made.bytes / 1024


def test_an_error_is_at_most_half_a_step_and_zeros_stay_zeros() -> None:
    torch.manual_seed(0)
    rnn = FastGRNN(6, 9, rank_w="learned", rank_u="learned", s_init=-0.1)
    model = SequenceClassifier(rnn, 3)
    with torch.no_grad():
        model.fc.weight[:, 4] = 0
        model.fc.weight[1] = 0
    folded, made = model.fold(), quantise(model)
    for name, matrix in made.matrices.items():
        parameter = folded.get_parameter(name)
        real = parameter.t() if name == "fc.weight" else parameter
        assert ((matrix.to_float() - real).abs() <= matrix.scale / 2 * 1.001).all()
        assert (matrix.values[real == 0] == 0).all()
        assert matrix.values.abs().max() == 127
    x = torch.randn(4, 5, 6)
    torch.testing.assert_close(made.network(x), model(x), rtol=0, atol=0.05)
    assert (made.network.fc.weight[1] == 0).all()


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = SequenceClassifier(FastGRNN(2, 3), 2)
    with torch.no_grad():
        model.rnn.cells[0].U[0, 0] = float("inf")
    with pytest.raises(IntegrityError, match=r"rnn.cells.0.U holds a value that is not finite"):
        quantise(model)
