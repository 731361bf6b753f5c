from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import strzoo
from strzoo.checkpoint import check_published, identify
from strzoo.checkpoint.record import TrainedOn
from strzoo.errors import IntegrityError, StrzooError
from strzoo.zoo.registry import Preprocessing, get_card, load_registry
from tests.helpers.published import dense_state, str_state, write_published


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return str_state("mobilenetv1", 75.28)


@pytest.fixture(scope="module")
def logits(state: dict[str, Tensor]) -> Tensor:
    """What the network of `state` computes, by the published formula and plain convolutions."""
    dense = {}
    for key, value in state.items():
        if key.endswith("sparseThreshold"):
            continue
        s = state.get(key.removesuffix("weight") + "sparseThreshold")
        if key.endswith(".weight") and s is not None:
            value = torch.sign(value) * torch.relu(torch.abs(value) - torch.sigmoid(s))
        dense[key] = value
    model = strzoo.create_model("mobilenetv1").eval()
    model.load_state_dict(dense)
    with torch.no_grad():
        return model(_images())


def _images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _write(form: str, state: dict[str, Tensor], path: Path) -> Path:
    match form:
        case "zip":
            return write_published(path, state)
        case "old pickle":
            return write_published(path, state, old_pickle=True)
        case "no module prefix":
            return write_published(path, state, prefix="")
        case "compiled prefix":
            return write_published(path, state, prefix="module._orig_mod.")
        case "no optimizer":
            return write_published(path, state, optimizer=False)
        case "bare":
            torch.save(state, path)
        case "ordered, cuda names":
            torch.save({"state_dict": torch.nn.Sequential().state_dict() | state}, path)
        case "safetensors":
            save_file(state, path)
        case "double size":
            doubled = dict(state)
            for key, s in state.items():
                if key.endswith(".sparseThreshold"):
                    layer = key.removesuffix(".sparseThreshold")
                    w = state[f"{layer}.weight"]
                    copy = torch.sign(w) * torch.relu(torch.abs(w) - torch.sigmoid(s))
                    doubled[f"{layer}.sparseWeight"] = copy
            return write_published(path, doubled)
    return path


FORMS = (
    "zip",
    "old pickle",
    "no module prefix",
    "compiled prefix",
    "no optimizer",
    "bare",
    "ordered, cuda names",
    "safetensors",
    "double size",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_gives_the_same_network(
    form: str, state: dict[str, Tensor], logits: Tensor, tmp_path: Path
) -> None:
    path = _write(form, state, tmp_path / "file.pth")
    checkpoint = strzoo.read_checkpoint(path)
    assert (checkpoint.architecture, checkpoint.format) == ("mobilenetv1", "str")
    assert checkpoint.state_dict.keys() == state.keys()
    assert checkpoint.sparsity() == pytest.approx(75.28, abs=0.01)
    with torch.no_grad():
        assert torch.equal(checkpoint.build_model("str")(_images()), logits)
        assert torch.equal(checkpoint.build_model("dense")(_images()), logits)


def test_a_copy_under_another_name_is_dropped_only_if_it_is_one(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    doubled = dict(state)
    effective = strzoo.read_checkpoint(write_published(tmp_path / "a.pth", state))
    doubled["fc.thresholded"] = effective.effective_weights()["fc"]
    path = write_published(tmp_path / "b.pth", doubled)
    assert strzoo.read_checkpoint(path).state_dict.keys() == state.keys()
    doubled["fc.thresholded"] = state["fc.weight"]
    path = write_published(tmp_path / "c.pth", doubled)
    with pytest.raises(IntegrityError, match=r"unexpected: fc\.thresholded"):
        strzoo.read_checkpoint(path)


def test_metadata_is_kept_and_numpy_scalars_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(
        {"epoch": np.int64(3), "best_acc1": np.float64(50.5), "curr_acc1": "Not evaluated",
         "arch": "MobileNetV1", "state_dict": dense_state()},
        path,
    )  # fmt: skip
    metadata = strzoo.read_checkpoint(path).metadata
    assert dict(metadata) == {
        "epoch": 3, "best_acc1": 50.5, "curr_acc1": "Not evaluated", "arch": "MobileNetV1",
    }  # fmt: skip
    assert type(metadata["best_acc1"]) is float


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_a_pickle_of_numpy_1_or_2_loads_with_either(module: str, tmp_path: Path) -> None:
    # numpy 1 pickled scalars as numpy.core.multiarray.scalar; numpy 2 renamed the module.
    document = {"optimizer": {"lr": np.float64(0.1)}, "state_dict": dense_state()}
    buffer = io.BytesIO()
    torch.save(document, buffer, _use_new_zipfile_serialization=False)
    written = buffer.getvalue()
    spelled = f"c{module}.multiarray\nscalar".encode()
    content = re.sub(rb"cnumpy\._?core\.multiarray\nscalar", spelled, written)
    assert spelled in content
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert strzoo.read_checkpoint(path).architecture == "mobilenetv1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("resnet18", {"num_classes": 10, "small_stem": True}),
        ("resnet20", {"num_classes": 10}),
        ("resnet18", {"num_classes": 5, "head_bias": True}),
        ("mobilenetv1", {"num_classes": 5, "width": 0.25, "small_stem": True}),
    ],
)
@pytest.mark.parametrize("granularity", ["layer", "filter", "weight", "global"])
def test_a_network_of_the_zoo_survives_saving_and_loading(
    architecture: str, options: dict[str, Any], granularity: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = strzoo.create_model(architecture, **options).eval()
    strzoo.sparsify_(model, threshold=granularity, s_init=-3.0, skip=["fc"])
    images = _images()
    with torch.no_grad():
        expected = model(images)
        for name in ("a.pth", "a.safetensors"):
            path = strzoo.save_checkpoint(strzoo.build_checkpoint(model), tmp_path / name)
            again = strzoo.load(path)
            assert torch.equal(again(images), expected)
            assert again.state_dict().keys() == model.state_dict().keys()
            assert torch.equal(strzoo.load(path, format="dense")(images), expected)


def _tamper(change: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    match change:
        case "missing":
            del state["model.3.0.weight"], state["model.3.1.bias"]
        case "missing threshold":
            del state["model.3.0.sparseThreshold"]
        case "unexpected":
            state["model.3.0.extra"] = torch.zeros(3)
        case "shape":
            state["model.3.0.weight"] = state["model.3.0.weight"][:5]
        case "threshold shape":
            state["model.3.0.sparseThreshold"] = torch.zeros(7)
        case "nan weight":
            state["model.3.0.weight"] = state["model.3.0.weight"].clone()
            state["model.3.0.weight"][0, 0, 0, 0] = float("nan")
        case "infinite weight":
            state["model.3.0.weight"] = state["model.3.0.weight"].clone()
            state["model.3.0.weight"][1, 0, 0, 0] = float("inf")
        case "nan threshold":
            state["model.3.0.sparseThreshold"] = torch.full((1, 1), float("nan"))
        case "nan statistics":
            state["model.3.1.running_var"] = torch.full((128,), float("nan"))
    return state


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("missing", "missing: model.3.0.weight (and 2 more)"),
        ("missing threshold", "missing: model.3.0.sparseThreshold"),
        ("unexpected", "unexpected: model.3.0.extra"),
        ("shape", "model.3.0.weight has shape (5, 1, 3, 3), expected (128, 1, 3, 3)"),
        ("threshold shape", "model.3.0.sparseThreshold has shape (7,)"),
        ("nan weight", "model.3.0.weight has a value that is not finite"),
        ("infinite weight", "model.3.0.weight has a value that is not finite"),
        ("nan threshold", "model.3.0.sparseThreshold has a value that is not finite"),
        ("nan statistics", "model.3.1.running_var has a value that is not finite"),
    ],
)
def test_a_fault_in_the_state_dict_names_the_key(
    change: str, named: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    tampered = _tamper(change, state)
    if change == "missing":  # the threshold is left without its weight: an unexpected key
        del tampered["model.3.0.sparseThreshold"]
    path = write_published(tmp_path / "a.pth", tampered)
    with pytest.raises(IntegrityError) as error:
        strzoo.read_checkpoint(path)
    assert named in str(error.value)
    assert str(path) in str(error.value)


def test_first_missing_unexpected_and_misshapen_are_all_named(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    tampered = _tamper("unexpected", state)
    del tampered["fc.sparseThreshold"], tampered["model.1.1.weight"]
    tampered["model.2.1.weight"] = torch.zeros(3)
    with pytest.raises(IntegrityError) as error:
        strzoo.read_checkpoint(write_published(tmp_path / "a.pth", tampered))
    text = str(error.value)
    assert "missing: model.1.1.weight" in text
    assert "unexpected: model.3.0.extra" in text
    assert "misshapen: model.2.1.weight has shape (3,), expected (64,)" in text


def test_the_wrong_architecture_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_published(tmp_path / "a.pth", state, "resnet50")
    with pytest.raises(IntegrityError, match="mobilenetv1's, but its arch field says 'ResNet50'"):
        strzoo.read_checkpoint(path)
    path = write_published(tmp_path / "b.pth", state)
    with pytest.raises(IntegrityError, match="the request says 'resnet50'"):
        strzoo.read_checkpoint(path, architecture="resnet50")
    with pytest.raises(IntegrityError, match="no known architecture"):
        strzoo.build_checkpoint({"features.0.weight": torch.zeros(3)})


class _Malicious:
    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_executes_code_is_refused_and_not_executed(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": _Malicious()}}, "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(IntegrityError, match=r"its pickle calls (posix|nt)\.system"):
        strzoo.read_checkpoint("a.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>quota</html>", "web page"),
        (b"\n <html><head>", "web page"),
        (b"STRZPLAN" + bytes(100), "compiled plan of the sparse engine, not a checkpoint"),
        (b"GIF89a" + bytes(100), "starts with b'GIF89a"),
        (b"PK\x03\x04" + bytes(100), "or is damaged (File is not a zip file)"),
        (pickle.dumps([1, 2], 2), "it holds a list, not a state dict"),
        ((10).to_bytes(8, "little") + b"{}", "starts with"),
        ((2).to_bytes(8, "little") + b"{x" + bytes(50), "is not a safetensors file, or is damaged"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as error:
        strzoo.read_checkpoint(path)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_safetensors_file_whose_header_is_as_long_as_a_pickle_begins_is_read(
    protocol: int, tmp_path: Path
) -> None:
    model: Any = strzoo.create_model("resnet20")
    file = strzoo.save_checkpoint(model, tmp_path / "a.safetensors")
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # Spaces after the header are allowed; pickles begin with 0x80 and their protocol.
    longer = int.from_bytes(bytes([0x80, protocol, 1]), "little")
    header = content[8 : 8 + length].ljust(longer)
    file.write_bytes(longer.to_bytes(8, "little") + header + content[8 + length :])
    assert file.read_bytes()[:2] == bytes([0x80, protocol])
    assert torch.equal(strzoo.read_checkpoint(file).state_dict["fc.weight"], model.fc.weight)


def test_a_missing_or_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match="does not exist"):
        strzoo.read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(StrzooError, match=r"is a folder without best_str\.pth or best_dense\.pth"):
        strzoo.read_checkpoint(tmp_path)


def test_a_published_file_is_recognised_by_its_content(str_file: Path) -> None:
    checkpoint = strzoo.read_checkpoint(str_file)
    card, format = identify(checkpoint, load_registry())
    assert (card.id, format) == ("mobilenetv1_str_75.28", "str")
    check_published(checkpoint, card, "str")
    with pytest.raises(IntegrityError, match=r"format is str, mobilenetv1_str_75\.28 has dense"):
        check_published(checkpoint, card, "dense")
    with pytest.raises(IntegrityError, match=r"sparsity is 75\.28 %, .*89\.01 %"):
        check_published(checkpoint, get_card("mobilenetv1_str_89.01"), "str")
    with pytest.raises(IntegrityError, match="architecture is mobilenetv1"):
        check_published(checkpoint, get_card("resnet50_str_90.23"), "str")
    other = strzoo.build_checkpoint(str_state("mobilenetv1", 50.0))
    with pytest.raises(IntegrityError, match="none of the published models"):
        identify(other, load_registry())


PREPROCESSING = Preprocessing(73, 64, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
TRAINED_ON = TrainedOn((3, 64, 64), PREPROCESSING, ("cat", "dog", "ähre"))


@pytest.mark.parametrize("name", ["made.pth", "made.safetensors", "compact.safetensors"])
def test_a_file_keeps_what_its_network_was_trained_on(name: str, tmp_path: Path) -> None:
    model = strzoo.create_model("resnet20", num_classes=3)
    for trained_on in (TRAINED_ON, TrainedOn((3, 8, 8)), None):
        made = strzoo.build_checkpoint(model, {"epoch": 1}, trained_on=trained_on)
        compact = name.startswith("compact")
        file = strzoo.save_checkpoint(made, tmp_path / name, compact=compact, force=True)
        assert strzoo.read_checkpoint(file).trained_on == trained_on
    sparse = strzoo.build_checkpoint(strzoo.sparsify_(model, s_init=-3.0), trained_on=TRAINED_ON)
    source = strzoo.save_checkpoint(sparse, tmp_path / "str.pth")
    strzoo.convert(source, tmp_path / name, compact=compact, force=True)
    assert strzoo.read_checkpoint(tmp_path / name).trained_on == TRAINED_ON


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": [3, 64]}, "expected 3 values, got 2"),
        ({"input_size": [3, 0, 64]}, r"input_size \(3, 0, 64\) must be positive"),
        ({"input_size": "large"}, r"trained_on\.input_size: expected .*int"),
        ({"class_names": ["cat"]}, "names 1 classes, the network has 3 outputs"),
        ({"class_names": [1, 2, 3]}, r"class_names\[0\]: expected str, got 1"),
        ({"preprocessing": {"resize": 8}}, "missing field 'crop'"),
        ({"unknown": 1}, "unknown field 'unknown'"),
    ],
)
def test_a_file_that_says_nonsense_of_its_training_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    made = strzoo.build_checkpoint(
        strzoo.create_model("resnet20", num_classes=3), trained_on=TRAINED_ON
    )
    file = strzoo.save_checkpoint(made, tmp_path / "made.pth")
    document = torch.load(file, weights_only=True)
    document["strzoo"]["trained_on"].update(change)
    torch.save(document, file)
    with pytest.raises(IntegrityError, match=message):
        strzoo.read_checkpoint(file)


def test_a_network_of_ones_own_is_not_taken_for_an_incomplete_one_of_the_zoo(
    tmp_path: Path,
) -> None:
    class Own(nn.Module):
        """Its first names are those of MobileNetV1."""

        def __init__(self, head: str) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
            self.add_module(head, nn.Linear(8, 2))

    for head in ("classifier", "fc"):
        with pytest.raises(IntegrityError, match=r"known architecture .*mobilenetv1's.* entries"):
            strzoo.save_checkpoint(Own(head), tmp_path / "own.pth")
    with pytest.raises(IntegrityError, match=r"register_architecture adds your own"):
        strzoo.build_checkpoint(nn.Sequential(nn.Linear(2, 2)))
    # A file of the zoo that lacks an entry is still told which.
    state = dict(strzoo.create_model("mobilenetv1", num_classes=2).state_dict())
    del state["model.7.3.weight"]
    with pytest.raises(IntegrityError, match=r"not a complete mobilenetv1: missing: model\.7\.3"):
        strzoo.build_checkpoint(state)
