"""Images to calibrate with, as arrays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from strzoo.data.calibration import PHOTOGRAPHS, load_arrays, load_samples
from strzoo.data.imageset import ImageSet
from strzoo.data.loading import normalise
from strzoo.data.preprocessing import IMAGENET, build_transforms, fit_channels
from strzoo.errors import UsageError

STEPS = replace(IMAGENET, resize=36, crop=32)


def test_values_are_those_of_evaluation_to_the_bit() -> None:
    name, values = load_arrays("photographs", (3, 32, 32), STEPS)
    _, pixels = load_arrays("photographs", (3, 32, 32), STEPS, as_bytes=True)
    assert name == "photographs"
    assert values.flags.c_contiguous
    assert pixels.shape == (9, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(values, normalise(torch.from_numpy(pixels), STEPS).numpy())
    assert torch.equal(load_samples(None, (3, 32, 32), STEPS).images, torch.from_numpy(values))


@pytest.mark.parametrize(("side", "resize"), [(32, 32), (63, 63), (64, 82), (100, 129), (224, 288)])
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_of_any_size_are_those_that_evaluation_sees(
    channels: int, side: int, resize: int
) -> None:
    """Small sizes are filled by the whole image, larger ones keep the ratio, here 288 / 224."""
    steps = replace(IMAGENET, resize=288, crop=224, interpolation="bicubic")
    seen = build_transforms(fit_channels(replace(steps, resize=resize, crop=side), channels))
    _, values = load_arrays("photographs", (channels, side, side), steps)
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    assert len(files) == 3
    for file, found in zip(files, values[:3], strict=True):
        with Image.open(file) as image:
            wanted = seen(image.convert("RGB")).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_grey_images_take_the_mean_of_the_channels() -> None:
    _, values = load_arrays("photographs", (1, 32, 32), STEPS)
    _, pixels = load_arrays("photographs", (1, 32, 32), STEPS, as_bytes=True)
    exact = (pixels[..., 0] / 255 - np.mean(STEPS.mean)) / np.mean(STEPS.std)
    assert np.abs(values[:, 0] - exact).max() < 1e-6


def test_values_in_memory_are_taken_as_they_are() -> None:
    images = torch.randn(3, 3, 8, 8, requires_grad=True)
    given: list[Any] = [images, images.detach().numpy(), ImageSet(images, torch.zeros(3).long(), 2)]
    for each in given:
        assert np.array_equal(load_arrays(each, (3, 8, 8), STEPS)[1], images.detach().numpy())


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16), r"\(2, 3, 8, 8\) and bfloat16 were given"),
        (np.zeros((2, 3, 8, 8)), r"and float64 were given; the network takes \(N, 3, 8, 8\) of fl"),
        (torch.zeros(()), r"images of shape \(\)"),
        (np.zeros((0, 3, 8, 8), np.float32), r"images of shape \(0, 3, 8, 8\)"),
        (torch.zeros(2, 3, 9, 8), r"images of shape \(2, 3, 9, 8\)"),
    ],
)
def test_values_that_do_not_fit_are_named(images: np.ndarray | torch.Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_arrays(images, (3, 8, 8), STEPS)


PROGRAM = """
import sys
from strzoo.data.calibration import load_arrays
from strzoo.data.preprocessing import IMAGENET
print(len(load_arrays(None, (3, 64, 64), IMAGENET)[1]), "torch" in sys.modules)
"""


def test_reading_photographs_takes_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["9", "False"], done.stderr
