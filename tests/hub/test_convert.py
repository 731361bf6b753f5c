from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from skimage import data as photographs

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UsageError, VerificationError
from strzoo.hub.convert import convert
from strzoo.settings import Settings
from tests.helpers.published import str_state, write_published


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("r") / "resnet50.pth"
    budget = strzoo.load_budget("resnet50_str_90.23")
    return write_published(path, str_state("resnet50", budget), "resnet50")


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A real photograph, preprocessed as published."""
    from PIL import Image

    image = Image.fromarray(photographs.astronaut())
    return strzoo.get_transforms("resnet50_dense")(image)[None]


@pytest.mark.slow
def test_dense_gives_the_same_logits_bit_for_bit(
    resnet_file: Path, photo: torch.Tensor, tmp_path: Path
) -> None:
    made = convert(resnet_file, tmp_path / "dense.pth")
    assert (made.source_format, made.format, made.architecture) == ("str", "dense", "resnet50")
    assert made.sparsity == pytest.approx(90.23, abs=0.01)
    with torch.no_grad():
        expected = strzoo.load(resnet_file, format="str")(photo)
        assert torch.equal(strzoo.load(tmp_path / "dense.pth")(photo), expected)
    stored = torch.load(tmp_path / "dense.pth", weights_only=True)
    assert stored["arch"] == "ResNet50"
    assert all(key.startswith("module.") for key in stored["state_dict"])
    assert len(stored["state_dict"]) == 319
    assert "optimizer" not in stored


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_loads_its_layout_and_computes_the_same(
    suffix: str, resnet_file: Path, photo: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / f"tv{suffix}"
    made = convert(resnet_file, path, layout="torchvision", verify=True)
    assert made.verified
    state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert state["fc.weight"].shape == (1000, 2048)
    assert not state["fc.bias"].any()
    model = torchvision.models.resnet50().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        expected = strzoo.load(resnet_file)(photo)
        torch.testing.assert_close(model(photo), expected, rtol=1e-5, atol=1e-5)
        # And back: the zero bias is dropped, the classifier a convolution again.
        assert torch.equal(strzoo.load(path)(photo), expected)


@pytest.mark.slow
def test_timm_loads_its_resnet50_and_computes_the_same(
    resnet_file: Path, photo: torch.Tensor, tmp_path: Path
) -> None:
    convert(resnet_file, tmp_path / "timm.pth", layout="timm", verify=True)
    model = timm.create_model("resnet50").eval()
    model.load_state_dict(torch.load(tmp_path / "timm.pth", weights_only=True))
    with torch.no_grad():
        expected = strzoo.load(resnet_file)(photo)
        torch.testing.assert_close(model(photo), expected, rtol=1e-5, atol=1e-5)


def test_timm_loads_its_mobilenetv1_and_computes_the_same(
    str_file: Path, photo: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "timm.safetensors"
    convert(str_file, path, layout="timm", verify=True)
    model = timm.create_model("mobilenetv1_100", act_layer="relu").eval()
    model.load_state_dict(load_file(path))
    with torch.no_grad():
        expected = strzoo.load(str_file)(photo)
        torch.testing.assert_close(model(photo), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(strzoo.load(path)(photo), expected, rtol=1e-5, atol=1e-5)


def test_a_torchvision_classifier_with_bias_comes_back_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "tv.pth")
    ours = strzoo.load(tmp_path / "tv.pth")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    sparsity=st.floats(0, 100),
    seed=st.integers(0, 100),
    suffix=st.sampled_from([".pth", ".safetensors"]),
    compact=st.booleans(),
)
def test_str_to_dense_round_trips_at_any_sparsity(
    sparsity: float, seed: int, suffix: str, compact: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("c")
    state = str_state("mobilenetv1", sparsity, seed, width=0.1, num_classes=3)
    source = write_published(folder / "str.pth", state)
    compact = compact and suffix == ".safetensors"
    made = convert(source, folder / f"dense{suffix}", compact=compact)
    again = strzoo.read_checkpoint(made.path)
    for layer, weight in strzoo.read_checkpoint(source).effective_weights().items():
        assert torch.equal(again.state_dict[f"{layer}.weight"], weight)
    assert again.format == "dense"


def test_str_stays_str_without_its_optimizer(str_file: Path, tmp_path: Path) -> None:
    convert(str_file, tmp_path / "clean.pth", format="str")
    stored = torch.load(tmp_path / "clean.pth", weights_only=True)
    assert "optimizer" not in stored
    assert stored["best_acc1"] == 74.31
    original = strzoo.read_checkpoint(str_file).state_dict
    again = strzoo.read_checkpoint(tmp_path / "clean.pth").state_dict
    assert again.keys() == original.keys()
    assert all(torch.equal(again[key], original[key]) for key in original)


def test_half_precision_verifies_within_its_rounding(str_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    made = convert(str_file, path, half=True, compact=True, verify=True)
    assert made.bytes < 0.2 * made.source_bytes


def test_a_failed_verification_leaves_no_file(
    str_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = strzoo.build_checkpoint(str_state("mobilenetv1", 75.28, seed=9))
    monkeypatch.setattr("strzoo.checkpoint.convert.map_checkpoint", lambda *_, **__: other)
    with pytest.raises(VerificationError, match="logits differ"):
        convert(str_file, tmp_path / "dense.pth", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_converted_is_refused(str_file: Path, tmp_path: Path) -> None:
    dense = convert(str_file, tmp_path / "dense.pth").path
    with pytest.raises(UsageError, match="its thresholds are gone"):
        convert(dense, tmp_path / "a.pth", format="str")
    with pytest.raises(UsageError, match="torchvision has no network for mobilenetv1"):
        convert(dense, tmp_path / "a.pth", layout="torchvision")
    with pytest.raises(UsageError, match=r"must end in one of \.pth, \.pt, \.safetensors"):
        convert(dense, tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        convert(dense, tmp_path / "a.pth", compact=True)
    with pytest.raises(UsageError, match="'int8' is not one of dense, str"):
        convert(dense, tmp_path / "a.pth", format="int8")
    with pytest.raises(UsageError, match="holds dense weights"):
        convert(str_file, tmp_path / "a.safetensors", format="str", compact=True)
    with pytest.raises(StrzooError, match="exists; pass --force"):
        convert(str_file, dense)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense.pth"]


def test_a_network_of_ones_own_is_converted_by_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3))
"""
    (tmp_path / "own_code.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    own_code = importlib.import_module("own_code")
    trained, average = own_code.net().state_dict(), own_code.net().state_dict()
    file = tmp_path / "both.pth"
    torch.save({"model": trained, "model_ema": average}, file)
    named = Settings.from_env(architecture="own_code:net")
    for name, compact in (("a.pth", False), ("b.safetensors", True)):
        made = convert(
            file, tmp_path / name, entry="model_ema", verify=True, compact=compact, settings=named
        )
        assert made.verified
        found = strzoo.read_checkpoint(tmp_path / name, architecture="own_code:net").state_dict
        assert all(torch.equal(found[key], value) for key, value in average.items())
    with pytest.raises(IntegrityError, match=r"--architecture package\.module:function"):
        convert(file, tmp_path / "c.pth")
