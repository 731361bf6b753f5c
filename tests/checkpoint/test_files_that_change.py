"""What was read from a file stays as it is when the file is written over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.rnn import FastGRNN, SequenceClassifier, load_rnn, save_rnn
from tests.helpers.foreign import small_network

State = Mapping[str, Tensor]
STATE: State = dict(small_network().state_dict())


def _write(form: str, path: Path) -> None:
    match form:
        case "zip":
            torch.save({"state_dict": STATE}, path)
        case "pickle":
            torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=False)
        case "safetensors":
            save_file(dict(STATE), path)


def _read(path: Path) -> State:
    return strzoo.read_checkpoint(path).state_dict


def _load(path: Path) -> State:
    return strzoo.load(path).state_dict()


def _read_all(path: Path) -> State:
    found: State = read_document(path)["state_dict"]
    return found


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ("zip", _read),
        ("pickle", _read),
        ("safetensors", _read),
        ("zip", _load),
        ("safetensors", _load),
        ("zip", _read_all),
    ],
)
def test_tensors_do_not_follow_their_file(
    form: str, read: Callable[[Path], State], tmp_path: Path
) -> None:
    _write(form, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    _overwrite(tmp_path / "a.pth")
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_a_network_for_sequences_does_not_follow_its_file(tmp_path: Path) -> None:
    model = SequenceClassifier(FastGRNN(3, 4, 1), 5).eval()
    path = save_rnn(model, tmp_path / "a.pth")
    found = load_rnn(path).state_dict()
    _overwrite(path)
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


def test_a_checkpoint_can_be_saved_over_its_own_file(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "a.pth")
    found = _read(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"")  # as torch.save begins; of a map nothing would be left
    torch.save({"state_dict": dict(found)}, tmp_path / "a.pth")
    again = _read(tmp_path / "a.pth")
    assert all(torch.equal(again[key], value) for key, value in STATE.items())


def _overwrite(path: Path) -> None:
    """In place, so that a map of the file would change too."""
    size = path.stat().st_size
    with open(path, "r+b") as stream:
        stream.write(bytes(size))
