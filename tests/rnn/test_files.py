from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.rnn import FastGRNN, SequenceClassifier, load_rnn, quantise, save_rnn
from strzoo.rnn.files import read_metadata


def _model(**options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    rnn = FastGRNN(3, 4, 2, bidirectional=True, gate="quantSigm", **options)
    return SequenceClassifier(rnn, 5, mean=torch.randn(6, 3), std=torch.rand(6, 3) + 1).eval()


def test_a_file_gives_back_the_network_and_its_metadata(tmp_path: Path) -> None:
    model, x = _model(rank_w="learned", rank_u=2, s_init=-0.2), torch.randn(2, 6, 3)
    path = save_rnn(model, tmp_path / "model.pth", metadata={"top1": 97.5})
    found = load_rnn(path)
    assert torch.equal(found(x), model(x))
    assert found.rnn.cells[0].rank_w == "learned"
    assert not found.training
    assert read_metadata(path) == {"top1": 97.5}
    with pytest.raises(StrzooError, match="exists; pass --force"):
        save_rnn(model, path)


def test_an_int8_file_gives_back_the_same_int8_numbers(tmp_path: Path) -> None:
    quantised, x = quantise(_model(rank_u=2)), torch.randn(2, 6, 3)
    path = save_rnn(quantised, tmp_path / "model.pth")
    found = load_rnn(path)
    assert torch.equal(found(x), quantised.network(x))
    again = quantise(found)
    for name, matrix in quantised.matrices.items():
        assert torch.equal(again.matrices[name].values, matrix.values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strzoo_rnn": 2}, "its form is version 2, this strzoo reads 1"),
        ({"num_classes": 10**12}, "num_classes is 1000000000000, not a size"),
        ({"cells": [{"input_size": 3}]}, "description of the cells is damaged"),
        ({"cells": []}, "0 forward and 2 backward cells make no network"),
        ({"state_dict": {}}, "mean is missing"),
        ({"state_dict": 3}, "it has no state_dict"),
    ],
)
def test_a_damaged_description_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = save_rnn(_model(), tmp_path / "model.pth")
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(IntegrityError, match=message):
        load_rnn(path)


def test_a_wrong_tensor_is_named(tmp_path: Path) -> None:
    path = save_rnn(_model(), tmp_path / "model.pth")
    document = torch.load(path, weights_only=True)
    document["state_dict"]["rnn.cells.1.W"][0, 0] = float("inf")
    torch.save(document, path)
    with pytest.raises(IntegrityError, match=r"rnn.cells.1.W holds a value that is not finite"):
        load_rnn(path)
    document["state_dict"]["rnn.cells.1.W"] = torch.zeros(2, 2)
    torch.save(document, path)
    with pytest.raises(IntegrityError, match=r"rnn.cells.1.W is torch.float32 \[2, 2\], expected"):
        load_rnn(path)


def test_options_for_edgeml_s_files_are_refused_for_ours(tmp_path: Path) -> None:
    path = save_rnn(_model(), tmp_path / "model.pth")
    with pytest.raises(UsageError, match="names its gates and orientation"):
        load_rnn(path, gate="tanh")
    with pytest.raises(UsageError, match=r"does not end in .pth or .pt"):
        save_rnn(_model(), tmp_path / "model.bin")
    with pytest.raises(StrzooError, match="does not exist"):
        load_rnn(tmp_path / "none.pth")
