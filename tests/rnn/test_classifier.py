from __future__ import annotations

import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNN, SequenceClassifier, measure_normalisation


def test_logits_are_the_linear_layer_of_the_final_states_of_normalised_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, 3) * 4 + 2
    mean, std = measure_normalisation(x)
    model = SequenceClassifier(FastGRNN(3, 4, bidirectional=True), 7, mean=mean, std=std)
    assert model.steps == 5
    output, _ = model.rnn(((x - x.mean(0)) / x.std(0, correction=0)).transpose(0, 1))
    ends = torch.cat([output[-1, :, :4], output[0, :, 4:]], dim=1)
    torch.testing.assert_close(model(x), ends @ model.fc.weight.t() + model.fc.bias)


def test_what_never_changes_is_only_centred() -> None:
    x = torch.randn(9, 4, 2)
    x[:, 1, 0] = 3.0
    mean, std = measure_normalisation(x)
    assert std[1, 0] == 1
    assert mean[1, 0] == 3


def test_folding_keeps_the_logits() -> None:
    rnn = FastGRNN(3, 4, 2, batch_first=True, rank_w="learned", rank_u="learned", s_init=-0.5)
    model, x = SequenceClassifier(rnn, 3, mean=torch.ones(3)), torch.randn(2, 5, 3)
    torch.testing.assert_close(model.fold()(x), model(x))


def test_wrong_shapes_are_named() -> None:
    rnn = FastGRNN(3, 4)
    model = SequenceClassifier(rnn, 2, mean=torch.zeros(5, 3), std=torch.ones(5, 3))
    with pytest.raises(UsageError, match="have 4 steps; this network normalises each of 5"):
        model(torch.zeros(1, 4, 3))
    with pytest.raises(UsageError, match=r"\[1, 4\] are not \[N, T, 3\]"):
        model(torch.zeros(1, 4))
    with pytest.raises(UsageError, match=r"mean has shape \[4\]; it is \[3\], or \[T, 3\]"):
        SequenceClassifier(rnn, 2, mean=torch.zeros(4))
    with pytest.raises(UsageError, match="num_classes is 1"):
        SequenceClassifier(rnn, 1)
