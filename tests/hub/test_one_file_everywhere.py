"""The same file is the same network, with the same classes and preprocessing, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import strzoo
from strzoo.checkpoint.record import TrainedOn
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.opener import open_runner
from strzoo.evaluation.runner import RunnerOptions
from strzoo.export.export_onnx import describe
from strzoo.hub.resolve import resolve
from strzoo.hub.source import Source
from strzoo.zoo.registry import Preprocessing
from tests.helpers.foreign import prefixed, small_network, write_tar
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
    "fp64": lambda folder: _saved(mobilenet().double().state_dict(), folder / "a.pth"),
    "tar of 2017": lambda folder: write_tar(folder / "a.pth", _state()),
}


def _check_source(source: Source, path: Path) -> None:
    """What is known of the network is that of the file at `path`."""
    expected = resolve(path)
    assert source.architecture == expected.architecture
    assert source.class_names == expected.class_names
    assert source.preprocessing == expected.preprocessing


@pytest.mark.slow
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


@pytest.mark.slow
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


OWN = TrainedOn(
    (3, 24, 24),
    Preprocessing(27, 24, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    ("ant", "bee", "cat"),
)
# What a network is known by once it has left its checkpoint.
LATER: dict[str, Callable[[Path, Path], Any]] = {
    "an ONNX file": lambda file, plan: file,
    "its bytes": lambda file, plan: file.read_bytes(),
    "an ONNX model": lambda file, plan: onnx.load(file),
    "a plan": lambda file, plan: plan,
    "a compiled model": lambda file, plan: strzoo.compile(plan),
    "compiled again from bytes": lambda file, plan: strzoo.compile(file.read_bytes(), cache=False),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A checkpoint that says what it was trained on, its export, and a plan of that."""
    folder = tmp_path_factory.mktemp("made")
    record = strzoo.build_checkpoint(small_network(), trained_on=OWN)
    path = strzoo.save_checkpoint(record, folder / "a.pth")
    exported = strzoo.export_onnx(path, folder / "a.onnx").path
    return path, exported, strzoo.compile(exported, cache=False).save(folder / "a.strz")


@pytest.mark.slow
@pytest.mark.parametrize("form", LATER)
def test_what_a_checkpoint_knew_its_exports_and_plans_know(
    form: str, made: tuple[Path, Path, Path]
) -> None:
    path, file, plan = made
    model = LATER[form](file, plan)
    source = resolve(model)
    _check_source(source, path)
    assert (source.class_names, source.input_size) == (OWN.class_names, OWN.input_size)
    assert source.stated_preprocessing == OWN.preprocessing
    with open_runner(source, RunnerOptions()) as runner:
        assert (runner.preprocessing, runner.class_names) == (OWN.preprocessing, OWN.class_names)
    images = torch.randn(6, *OWN.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = strzoo.load(path)(images)
    assert strzoo.evaluate(model, [(images, scores.argmax(1))]).correct_top1 == 6
    picture = torch.full((24, 24, 3), 90, dtype=torch.uint8)
    named = [[g.name for g in strzoo.predict(m, picture)[0].guesses] for m in (path, model)]
    assert named[0] == named[1]
    if source.kind == "plan":
        assert strzoo.compile(model).input_shape == OWN.input_size
        with pytest.raises(StrzooError, match="is a compiled"):
            strzoo.report(model)
    else:
        report, expected = strzoo.report(model), strzoo.report(path)
        assert (report.architecture, report.weights, report.sparse_macs) == (
            expected.architecture, expected.weights, expected.sparse_macs)  # fmt: skip
        assert strzoo.inspect_onnx(model).report == report


@pytest.mark.slow
def test_a_compiled_model_is_timed_alone_and_is_what_it_was_made_for(
    made: tuple[Path, Path, Path],
) -> None:
    _, file, plan = made
    compiled = strzoo.compile(file.read_bytes(), threads=1, cache=False)
    assert strzoo.compile(compiled, size=24, threads=1) is compiled
    result = strzoo.benchmark([compiled, plan], engines=["sparse"], runs=1, memory=False)
    assert [(row.engine, row.ratio, row.gain) for row in result.timings] == [
        ("sparse", None, None)] * 2  # fmt: skip
    for wrong, said in (
        (lambda: strzoo.compile(compiled, threads=2), "compiled for 1, 2 threads is asked"),
        (lambda: strzoo.compile(compiled, size=32), "for images of 3x24x24, images of 32x32 is"),
        (lambda: strzoo.benchmark(compiled, engines=["torch"]), "sparse must be among"),
        (lambda: strzoo.evaluate(compiled, [], engine="onnxruntime"), "onnxruntime cannot run it"),
        (lambda: strzoo.load(compiled), "give the model that it was compiled from"),
        (lambda: strzoo.inspect_onnx(compiled), "is a compiled model, not an ONNX model"),
    ):
        with pytest.raises(UsageError, match=said):
            wrong()
