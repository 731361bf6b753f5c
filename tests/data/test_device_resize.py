"""Images of many sizes resized together against PIL, one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from strzoo.data import device_resize
from strzoo.data.device_resize import resize_and_crop
from strzoo.data.images import prepare
from strzoo.data.preprocessing import IMAGENET
from tests.helpers.photographs import photographs

# Wide, tall, square, odd, smaller than the crop, and with a side that is cut nowhere.
SIZES = ((500, 375), (333, 500), (300, 300), (401, 267), (64, 48), (256, 256), (299, 231))


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (64, 64), (37, 32)])
@pytest.mark.parametrize("most", [1 << 28, 400_000], ids=["at once", "in groups"])
def test_images_of_many_sizes_are_those_of_pil_but_for_rounding(
    resize: int, crop: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_resize, "_MOST", most)
    images = [
        photographs()[number % 4].resize(size, Image.Resampling.LANCZOS)
        for number, size in enumerate(SIZES)
    ]
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    found = resize_and_crop(tensors, resize, crop).numpy().astype(int)
    steps = replace(IMAGENET, resize=resize, crop=crop)
    expected = np.stack([prepare(image, steps) for image in images]).astype(int)
    difference = np.abs(found - expected)
    # PIL rounds to whole numbers between columns and rows.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.25
