from __future__ import annotations

from pathlib import Path

import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNN, SequenceClassifier, load_rnn, quantise
from strzoo.rnn.conversion import convert_rnn


def test_every_form_is_read_back_with_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rnn = FastGRNN(3, 4, rank_w="learned", rank_u="learned", s_init=-0.3)
    model, x = SequenceClassifier(rnn, 5).eval(), torch.randn(2, 6, 3)
    for form, name in (("strzoo", "a.pth"), ("edgeml", "b.pth"), ("edgeml", "folder")):
        size = convert_rnn(model, tmp_path / name, form=form)
        torch.testing.assert_close(load_rnn(tmp_path / name)(x), model(x))
        assert size == 4 * sum(p.numel() for p in model.fold().parameters()) / 1024
    assert convert_rnn(model, tmp_path / "q.pth", form="int8") == quantise(model).kilobytes
    assert torch.equal(load_rnn(tmp_path / "q.pth")(x), quantise(model).network(x))


def test_what_a_form_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = SequenceClassifier(FastGRNN(3, 4), 5, mean=torch.ones(3))
    with pytest.raises(UsageError, match="no place for the mean and deviation"):
        convert_rnn(model, tmp_path / "a.pth", form="edgeml")
    with pytest.raises(UsageError, match="is no name of a folder"):
        convert_rnn(model, tmp_path / "a.npy", form="edgeml")
    with pytest.raises(UsageError, match="form 'onnx' is not one of"):
        convert_rnn(model, tmp_path / "a.pth", form="onnx")
