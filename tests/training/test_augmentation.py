from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from strzoo.data.preprocessing import IMAGENET
from strzoo.training.augmentation import RandomTransform, Shifts, draw_box

STEPS = dataclasses.replace(IMAGENET, resize=9, crop=8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 10_000))
def test_a_random_box_lies_inside_and_has_the_area_and_ratio_it_should(
    width: int, height: int, seed: int
) -> None:
    left, top, w, h = draw_box(width, height, np.random.default_rng(seed))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w > 0
    assert h > 0
    if min(width, height) > 100 and max(width, height) < 2 * min(width, height):
        # Sides are rounded to whole pixels: allow one on each.
        assert (w + 1) * (h + 1) >= 0.08 * width * height
        assert (w + 1) / (h - 1) >= 3 / 4
        assert (w - 1) / (h + 1) <= 4 / 3


def test_boxes_fill_areas_evenly_from_8_to_100_percent() -> None:
    random = np.random.default_rng(0)
    areas = [w * h / 1e6 for *_, w, h in (draw_box(1000, 1000, random) for _ in range(2000))]
    # Uniform on [0.08, 1] but for boxes that do not fit, which are drawn again: those above 3/4.
    assert np.mean([area < 0.4 for area in areas]) == pytest.approx(0.32 / 0.92, abs=0.08)
    assert min(areas) >= 0.079
    assert max(areas) > 0.9


@pytest.mark.parametrize("kind", ["resized_crop_flip", "pad_crop_flip", "pad_crop", "none"])
def test_an_image_gets_the_same_crop_for_the_same_seed_epoch_and_number(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    made = [
        RandomTransform(kind, STEPS, 2, seed, epoch)(image, index).copy()
        for seed, epoch, index in ((0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert all(one.shape == (8, 8, 3) and one.dtype == np.uint8 for one in made)
    assert np.array_equal(made[0], made[1])
    differ = [not np.array_equal(made[0], other) for other in made[2:]]
    assert any(differ) == (kind != "none")


def test_padded_crops_of_tensors_are_shifts_of_the_image_and_mirrors_of_them() -> None:
    images = torch.rand(50, 3, 6, 5)
    shifts = Shifts.draw(80, 2, flip=True, seed=1, epoch=4)
    assert 0 < int(shifts.flips.sum()) < 80
    assert {int(v) for v in shifts.offsets.unique()} == {0, 1, 2, 3, 4}
    chosen = torch.arange(30, 80)
    made = shifts.apply(images, chosen)
    for row, index in enumerate(chosen.tolist()):
        around = np.pad(images[row].numpy(), ((0, 0), (2, 2), (2, 2)))
        top, left = shifts.offsets[index].tolist()
        expected = around[:, top : top + 6, left : left + 5]
        if shifts.flips[index]:
            expected = expected[:, :, ::-1]
        assert np.array_equal(made[row].numpy(), expected)
    # Alone or in a batch, an image is treated the same.
    assert torch.equal(shifts.apply(images[7:8], chosen[7:8]), made[7:8])
