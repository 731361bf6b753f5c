from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import strzoo
from strzoo.errors import IntegrityError, OfflineError, UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.sparse.layers import STRConv2d
from tests.helpers.published import str_state, write_published

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A cache that holds the STR file of one model."""
    folder = tmp_path_factory.mktemp("cache")
    write_published(folder / "mobilenetv1_str_75.28-str.pth", str_state("mobilenetv1", 75.28))
    return Settings(cache_dir=folder, offline=True)


def test_a_cached_str_file_serves_both_formats(settings: Settings) -> None:
    images = torch.randn(1, 3, 64, 64)
    sparse = strzoo.load("mobilenetv1_str_75.28", format="str", settings=settings)
    dense = strzoo.load("mobilenetv1_str_75", settings=settings)
    assert isinstance(sparse.fc, STRConv2d)
    assert type(dense.fc) is torch.nn.Conv2d
    assert not sparse.training
    with torch.no_grad():
        assert torch.equal(sparse(images), dense(images))


@pytest.mark.parametrize("format", ["dense", "str"])
def test_another_number_of_classes_replaces_the_classifier_alone(
    format: str, settings: Settings
) -> None:
    whole = strzoo.load("mobilenetv1_str_75.28", format=format, settings=settings)
    model = strzoo.load("mobilenetv1_str_75.28", format=format, num_classes=5, settings=settings)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    assert type(model.fc) is type(whole.fc)
    for (key, new), old in zip(
        model.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert key.startswith("fc.") or torch.equal(new, old)
    with pytest.raises(UsageError, match="num_classes is 0"):
        strzoo.load("mobilenetv1_str_75.28", num_classes=0, settings=settings)


def test_without_pretrained_weights_nothing_is_read(tmp_path: Path) -> None:
    offline = Settings(cache_dir=tmp_path, offline=True)
    model = strzoo.load(
        "resnet50_str_90.23", pretrained=False, format="str", num_classes=10, small_stem=True,
        settings=offline,
    )  # fmt: skip
    assert isinstance(model.conv1, STRConv2d)
    assert model.conv1.kernel_size == (3, 3)
    assert model.fc.out_channels == 10


def test_a_path_serves_as_the_weights_of_a_model(str_file: Path, tmp_path: Path) -> None:
    offline = Settings(cache_dir=tmp_path, offline=True)
    model = strzoo.load("mobilenetv1_str_75.28", pretrained=str_file, settings=offline)
    assert type(model.fc) is torch.nn.Conv2d
    with pytest.raises(IntegrityError, match="mobilenetv1's, but the request says 'resnet50'"):
        strzoo.load("resnet50_dense", pretrained=str_file, settings=offline)


def test_what_is_missing_offline_is_said(tmp_path: Path) -> None:
    offline = Settings(cache_dir=tmp_path, offline=True)
    with pytest.raises(OfflineError, match=r"resnet50_str_90\.23"):
        strzoo.load("resnet50_str_90.23", settings=offline)


def test_bad_arguments_are_refused(str_file: Path, tmp_path: Path) -> None:
    offline = Settings(cache_dir=tmp_path, offline=True)
    with pytest.raises(UnknownNameError, match="nearest: resnet50_dense"):
        strzoo.load("resnet50_dnse", settings=offline)
    with pytest.raises(UsageError, match="'onnx' is not one of str, dense"):
        strzoo.load("resnet50_dense", format="onnx")
    with pytest.raises(UsageError, match="resnet50_dense has no 'str' file"):
        strzoo.load("resnet50_dense", format="str", settings=offline)
    with pytest.raises(UsageError, match="'width' is only for pretrained=False"):
        strzoo.load("mobilenetv1_dense", width=0.5, settings=offline)
    with pytest.raises(UsageError, match="leave out pretrained"):
        strzoo.load(str_file, pretrained=False)


def test_the_transforms_are_the_published_preprocessing() -> None:
    # Computed independently: PIL bilinear to a short side of 256, the central 224 square.
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)  # 400 * 256 / 300 = 341.3
    left, top = round((341 - 224) / 2), round((256 - 224) / 2)
    cropped = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float64) / 255
    expected = (cropped - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    found = strzoo.get_transforms("resnet50_str_90.23")(image)
    assert found.shape == (3, 224, 224)
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_torch_hub_has_an_entry_per_model(
    str_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # torch.hub.list takes only GitHub addresses; this is the rule by which it lists.
    entries = {
        name: value
        for name, value in runpy.run_path(str(CHECKOUT / "hubconf.py")).items()
        if callable(value) and not name.startswith("_")
    }
    assert sorted(entries) == sorted(n.replace(".", "_") for n in strzoo.list_models())
    assert "75.28 % sparsity" in str(entries["mobilenetv1_str_75_28"].__doc__)
    load: Callable[..., torch.nn.Module] = torch.hub.load
    model = load(
        str(CHECKOUT), "resnet50_str_90_23", source="local", pretrained=False, format="str"
    )
    assert isinstance(model.layer1[0].conv1, STRConv2d)
    model = load(str(CHECKOUT), "mobilenetv1_str_75_28", source="local", pretrained=str_file)
    assert type(model.fc) is torch.nn.Conv2d
