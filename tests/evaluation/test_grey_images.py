"""Networks of one channel on image files: grey from the file to the scores, by every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.data.loading import normalise
from strzoo.data.preprocessing import (
    CIFAR_MEAN,
    IMAGENET,
    build_transforms,
    check_preprocessing,
    fit_channels,
    fit_preprocessing,
)
from strzoo.errors import UsageError
from strzoo.zoo.registry import Preprocessing
from tests.conftest import CliResult
from tests.training.test_datasets import write_cifar

SIZE = 24
GREY = Preprocessing(SIZE, SIZE, "bilinear", (0.25,), (0.5,))


def grey_network(num_classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The held-out digits as PNG files of 24x24 grey pixels, one of them in colour mode."""
    folder: Path = tmp_path_factory.mktemp("digits")
    data = strzoo.load_digits("test")
    low, high = float(data.images.min()), float(data.images.max())
    for number, (image, label) in enumerate(zip(data.images[:90], data.labels[:90], strict=True)):
        path = folder / str(int(label)) / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = ((image[0] - low) / (high - low) * 255).round().byte().numpy()
        made = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        (made.convert("RGB") if number == 3 else made).save(path)
    return folder


def scores_by_hand(network: nn.Module, folder: Path) -> tuple[Tensor, list[int]]:
    """Of every file in the order of its path, without this library."""
    files = sorted(folder.rglob("*.png"))
    pixels = [np.asarray(Image.open(file).convert("L"), np.float32) for file in files]
    images = (torch.from_numpy(np.stack(pixels))[:, None] / 255 - 0.25) / 0.5
    with torch.inference_mode():
        return network(images), [int(file.parent.name) for file in files]


def test_every_engine_sees_the_grey_pixels(digits: Path, tmp_path: Path) -> None:
    network = grey_network()
    assert strzoo.report(network, input_size=SIZE).input_size == (1, SIZE, SIZE)
    scores, labels = scores_by_hand(network, digits)
    expected = 100 * float((scores.argmax(1) == torch.tensor(labels)).float().mean())
    alone = Preprocessing(SIZE, SIZE, "bilinear", 0.25, [0.5])  # type: ignore[arg-type]
    found = strzoo.evaluate(network, digits, preprocessing=alone, workers=0)
    assert found.images == 90
    assert found.top1 == pytest.approx(expected)
    for built_in in (False, True):
        file = tmp_path / f"{built_in}.onnx"
        strzoo.export_onnx(network, file, input_size=SIZE, preprocessing=built_in)
        # The file states ImageNet's means, averaged.
        usual = strzoo.evaluate(network, digits, preprocessing=fit_preprocessing(IMAGENET, SIZE))
        assert strzoo.evaluate(file, digits, workers=0).top1 == usual.top1
        if not built_in:
            ours = strzoo.evaluate(file, digits, workers=0, preprocessing=GREY)
            assert ours.top1 == pytest.approx(expected)
    pytest.importorskip("llvmlite")
    sparse = strzoo.evaluate(
        file.with_name("False.onnx"), digits, engine="sparse", preprocessing=GREY
    )
    assert sparse.top1 == pytest.approx(expected)


def test_predictions_are_those_of_the_pixels(digits: Path) -> None:
    network = grey_network()
    scores, _ = scores_by_hand(network, digits)
    files = sorted(digits.rglob("*.png"))
    found = strzoo.predict(network, files, top=1, preprocessing=GREY)
    wanted = scores.softmax(1).max(1)
    assert [each.guesses[0].index for each in found] == wanted.indices.tolist()
    probabilities = [each.guesses[0].probability for each in found]
    np.testing.assert_allclose(probabilities, wanted.values, rtol=1e-5)


def test_colours_become_grey_as_pil_makes_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    found = normalise(torch.from_numpy(pixels), Preprocessing(1, 1, "nearest", (0.0,), (1.0,)))
    assert found.shape == (2, 1, 40, 50)
    np.testing.assert_array_equal((found * 255).round().numpy()[:, 0], expected)


def test_transforms_are_those_of_evaluation(digits: Path) -> None:
    file = next(digits.rglob("003.png"))
    found = build_transforms(GREY)(Image.open(file))
    pixels = np.asarray(Image.open(file).convert("RGB"))
    expected = normalise(torch.from_numpy(pixels[None].copy()), GREY)
    torch.testing.assert_close(found[None], expected, rtol=0, atol=0)


def test_means_fit_the_channels() -> None:
    grey = fit_channels(IMAGENET, 1)
    np.testing.assert_allclose(grey.mean, [(0.485 + 0.456 + 0.406) / 3])
    assert fit_channels(GREY, 3).mean == (0.25, 0.25, 0.25)
    assert fit_channels(fit_channels(GREY, 3), 1) == GREY
    assert fit_channels(IMAGENET, 12) == IMAGENET
    assert check_preprocessing(replace(GREY, mean=0.25, std=[0.5])) == GREY  # type: ignore[arg-type]
    two = Preprocessing(8, 8, "nearest", (0.1, 0.2), (1.0, 1.0))
    with pytest.raises(UsageError, match="three numbers each, or one for grey images"):
        strzoo.evaluate(grey_network(), [], preprocessing=two)


@pytest.mark.slow
def test_a_folder_of_grey_images_trains_a_network_of_one_channel(digits: Path) -> None:
    network = grey_network()
    config = strzoo.FitConfig(epochs=20, image_size=SIZE, learning_rate=0.1, batch_size=15)
    history = strzoo.fit(network, digits, config)
    assert history[-1].top1 > 80  # of 10 classes


def test_a_run_on_grey_images_says_how_they_were_prepared(
    digits: Path, tmp_path: Path, cli: Callable[..., CliResult]
) -> None:
    here = "tests.evaluation.test_grey_images:grey_network"
    options = (
        "finetune", "method=dense", f"model={here}", f"data={digits}", "epochs=2",
        f"image_size={SIZE}", "crop_pct=1", "batch_size=30", "workers=0",
        f"output={tmp_path / 'run'}",
    )  # fmt: skip
    assert cli("train", *options, "mean=0.25").code == 2
    assert cli("train", *options, "mean=0.25", "std=0.5").code == 0
    checkpoint = strzoo.read_checkpoint(tmp_path / "run" / "last.pth", architecture=here)
    assert checkpoint.trained_on is not None
    assert checkpoint.trained_on.input_size == (1, SIZE, SIZE)
    assert checkpoint.trained_on.preprocessing == GREY
    network = checkpoint.build_model("dense")
    run = strzoo.evaluate(network, digits, workers=0)
    scores, labels = scores_by_hand(network, digits)
    assert run.correct_top1 == int((scores.argmax(1) == torch.tensor(labels)).sum())


@pytest.mark.parametrize("dataset", ["digits", "folder", "cifar10"])
def test_a_run_finds_out_that_its_network_takes_one_channel(
    digits: Path, tmp_path: Path, dataset: str
) -> None:
    data = str(digits) if dataset == "folder" else None
    if dataset == "cifar10":
        data = str(write_cifar(tmp_path / "cifar")[0])
    config = strzoo.TrainConfig(
        architecture="tests.evaluation.test_grey_images:grey_network", method="dense",
        dataset=dataset, data=data, num_classes=10, image_size=SIZE, crop_pct=1, epochs=1,
        warmup_epochs=0, batch_size=10, workers=0, output=str(tmp_path / "run"),
    )  # fmt: skip
    strzoo.plan(config)  # tries the network on such images
    made = strzoo.train(config).folder / "last.pth"
    trained_on = strzoo.read_checkpoint(made, architecture=config.architecture).trained_on
    assert trained_on is not None
    side = {"digits": 8, "folder": SIZE, "cifar10": 32}[dataset]
    assert trained_on.input_size == (1, side, side)
    if dataset != "digits":
        assert trained_on.preprocessing is not None
        average = sum({"folder": IMAGENET.mean, "cifar10": CIFAR_MEAN}[dataset]) / 3
        assert trained_on.preprocessing.mean == pytest.approx((average,))
