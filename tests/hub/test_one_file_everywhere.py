"""The same file is the same network, with the same classes and preprocessing, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import strzoo
from strzoo.evaluation.opener import open_runner
from strzoo.evaluation.runner import RunnerOptions
from strzoo.export.export_onnx import describe
from strzoo.hub.resolve import resolve
from strzoo.hub.source import Source
from tests.helpers.foreign import prefixed, small_network
from tests.helpers.published import dense_state, str_state, write_published

OPTIONS: dict[str, Any] = {"width": 0.1, "num_classes": 3}


def mobilenet() -> nn.Module:
    model = strzoo.create_model("mobilenetv1", **OPTIONS).eval()
    model.load_state_dict(dense_state("mobilenetv1", **OPTIONS))
    return model


def _saved(document: object, path: Path) -> Path:
    torch.save(document, path)
    return path


def _written(path: Path, **options: object) -> Path:
    return strzoo.save_checkpoint(mobilenet(), path, **options)  # type: ignore[arg-type]


def _state() -> dict[str, Tensor]:
    return dict(mobilenet().state_dict())


FORMS: dict[str, Callable[[Path], Path]] = {
    "published": lambda folder: write_published(
        folder / "a.pth", str_state("mobilenetv1", 60.0, **OPTIONS), old_pickle=True
    ),
    "torchvision": lambda folder: _saved(
        torchvision.models.resnet18(num_classes=3).state_dict(), folder / "a.pth"
    ),
    "timm": lambda folder: _written(folder / "a.pth", layout="timm"),
    "lightning": lambda folder: _saved(
        {"state_dict": prefixed("model.", _state()), "pytorch-lightning_version": "2"},
        folder / "a.ckpt",
    ),
    "DDP": lambda folder: _saved({"model": prefixed("module.", _state())}, folder / "a.pt"),
    "EMA": lambda folder: _saved({"ema": AveragedModel(mobilenet()).state_dict()}, folder / "a.pt"),
    "safetensors": lambda folder: _written(folder / "a.safetensors"),
    "compact": lambda folder: _written(folder / "a.safetensors", compact=True),
    "fp16": lambda folder: _written(folder / "a.pth", half=True),
}


def _check_source(source: Source, path: Path) -> None:
    """What is known of the network is that of the file at `path`."""
    expected = resolve(path)
    assert source.architecture == expected.architecture
    assert source.class_names == expected.class_names
    assert source.preprocessing == expected.preprocessing


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_the_same_network_in_every_command(form: str, tmp_path: Path) -> None:
    path = FORMS[form](tmp_path)
    architecture = "resnet18" if form == "torchvision" else "mobilenetv1"
    source = resolve(path)
    assert (source.architecture, source.input_size) == (architecture, (3, 224, 224))
    made = strzoo.report(path)
    assert (made.architecture, made.input_size) == (source.architecture, source.input_size)
    converted = strzoo.convert(path, tmp_path / "converted.pth")
    assert converted.architecture == architecture
    _check_source(resolve(converted.path), path)
    # Export and compile write this of the network into their files.
    described = describe(source, source.input_size, source.class_names)
    assert (described.architecture, described.preprocessing) == (architecture, source.preprocessing)
    with open_runner(source, RunnerOptions()) as runner:
        assert runner.preprocessing == source.preprocessing
        assert runner.class_names == source.class_names
        assert runner.count_classes() == 3
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = strzoo.load(path, format="dense")(images)
        assert torch.equal(strzoo.load(converted.path)(images), expected)
        assert torch.equal(source.build_dense()(images), expected)  # export, compile, matrices
    for model in (path, converted.path):
        assert strzoo.evaluate(model, [(images, expected.argmax(1))]).correct_top1 == 2


def test_what_is_made_of_a_foreign_file_is_the_same_network(tmp_path: Path) -> None:
    path = _saved({"state_dict": prefixed("model.", small_network().state_dict())}, tmp_path / "a")
    exported = strzoo.export_onnx(path, tmp_path / "a.onnx", images="digits")
    plan = strzoo.compile(path, cache=False).save(tmp_path / "a.strz")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = strzoo.load(path)(images).argmax(1)
    for made in (exported.path, plan):
        _check_source(resolve(made), path)
        assert strzoo.evaluate(made, [(images, labels)]).correct_top1 == 2
