"""A network that is loaded, changed and kept still knows the data that it was trained on."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.checkpoint.record import TrainedOn
from strzoo.zoo.registry import Preprocessing
from tests.helpers.photographs import small_network, write_class_folders

NAMES = tuple(f"name {i}" for i in range(10))
STEPS = Preprocessing(30, 28, "bilinear", (0.3, 0.4, 0.5), (0.2, 0.3, 0.4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    data = TrainedOn((3, 28, 28), STEPS, NAMES)
    made = strzoo.build_checkpoint(small_network(), trained_on=data)
    return strzoo.save_checkpoint(made, tmp_path / "run.pth")


def test_the_loop_of_ones_own_keeps_size_steps_and_names(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_class_folders(folder, [f"c{i}" for i in range(10)], [i % 10 for i in range(24)])
    expected = strzoo.evaluate(file, folder, workers=0)
    network = strzoo.load(file)
    assert strzoo.evaluate(network, folder, workers=0).loss == expected.loss
    strzoo.sparsify_(network.train(), "str", s_init=-20.0)
    kept = strzoo.save_checkpoint(strzoo.to_dense_(network).eval(), tmp_path / "kept.pth")
    assert strzoo.read_checkpoint(kept).trained_on == TrainedOn((3, 28, 28), STEPS, NAMES)
    assert strzoo.evaluate(kept, folder, workers=0).loss == pytest.approx(expected.loss, rel=1e-4)
    images = sorted(folder.rglob("*.*"))[:2]
    guesses = [p.guesses[0].name for p in strzoo.predict(copy.deepcopy(network), images)]
    assert guesses == [p.guesses[0].name for p in strzoo.predict(file, images)]
    assert set(guesses) <= set(NAMES)
    exported = strzoo.export_onnx(network, tmp_path / "kept.onnx")
    assert exported.input_shape[-2:] == (28, 28)
    assert strzoo.evaluate(exported.path, folder, workers=0).loss == pytest.approx(
        expected.loss, rel=1e-4
    )


@pytest.mark.parametrize("by_hand", [False, True])
def test_another_classifier_has_no_names(file: Path, by_hand: bool, tmp_path: Path) -> None:
    if by_hand:
        network = strzoo.load(file)
        network.fc = nn.Conv2d(64, 7, 1, bias=False)
    else:
        network = strzoo.load(file, num_classes=7)
    kept = strzoo.save_checkpoint(network, tmp_path / "kept.pth")
    assert strzoo.read_checkpoint(kept).trained_on == TrainedOn((3, 28, 28), STEPS, ())
    image = torch.zeros(3, 28, 28, dtype=torch.uint8)
    assert strzoo.predict(network, image)[0].guesses[0].name.startswith("class ")


def test_what_is_remembered_is_plain(file: Path) -> None:
    stream = io.BytesIO()
    torch.save(strzoo.load(file), stream)
    assert b"TrainedOn" not in stream.getvalue()
