"""Random crops and flips. What an image gets depends on seed, epoch and its number alone, so it is
the same with any number of workers, processes and interruptions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from strzoo.data.images import INTERPOLATIONS, prepare
from strzoo.zoo.registry import Preprocessing

_AREA = (0.08, 1.0)  # of the image; the usual random resized crop of ImageNet training
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class RandomTransform:
    """From an RGB image and its number to uint8 [crop, crop, 3], for one epoch. `kind` is one of
    the augmentations of `TrainConfig`, `padding` in pixels."""

    kind: str
    preprocessing: Preprocessing
    padding: int
    seed: int
    epoch: int

    def __call__(self, image: Image.Image, index: int) -> np.ndarray:
        if self.kind == "none":
            return prepare(image, self.preprocessing)
        random = np.random.default_rng((self.seed, self.epoch, index))
        if self.kind == "resized_crop_flip":
            pixels = np.asarray(self._resized_crop(image, random))
        else:
            pixels = self._shifted(prepare(image, self.preprocessing), random)
        flips = self.kind.endswith("flip") and random.random() < 0.5
        return pixels[:, ::-1] if flips else pixels

    def _resized_crop(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        left, top, width, height = draw_box(*image.size, random)
        crop = image.crop((left, top, left + width, top + height))
        side = self.preprocessing.crop
        return crop.resize((side, side), INTERPOLATIONS[self.preprocessing.interpolation])

    def _shifted(self, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        top, left = random.integers(0, 2 * self.padding + 1, 2)
        around = ((self.padding, self.padding), (self.padding, self.padding), (0, 0))
        side = self.preprocessing.crop
        return np.pad(pixels, around)[top : top + side, left : left + side]


def draw_box(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of an image: 8 to 100 % of its area, sides in a ratio of 3:4 to 4:3.

    Args:
        width, height: of the image, in pixels.
        random: source of randomness.

    Returns:
        Left, top, width and height in pixels; the centre if no such part is found in ten tries.
    """
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for _ in range(_TRIES):
        area = width * height * random.uniform(*_AREA)
        ratio = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return (
                int(random.integers(0, width - w + 1)),
                int(random.integers(0, height - h + 1)),
                w,
                h,
            )
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class Shifts:
    """Crop offsets [N, 2] (top, left; 0 to 2 x padding) and flips [N] of all images in an epoch."""

    offsets: Tensor
    flips: Tensor
    padding: int

    @classmethod
    def draw(cls, images: int, padding: int, *, flip: bool, seed: int, epoch: int) -> Shifts:
        """The shifts of one epoch: `images` of them, of up to `padding` pixels each way."""
        random = np.random.default_rng((seed, epoch, images))
        offsets = random.integers(0, 2 * padding + 1, (images, 2))
        flips = random.random(images) < 0.5 if flip else np.zeros(images, dtype=bool)
        return cls(torch.from_numpy(offsets), torch.from_numpy(flips), padding)

    def apply(self, images: Tensor, indices: Tensor) -> Tensor:
        """`images` [B, C, H, W], whose numbers are `indices` [B], padded with zeros, cropped back
        and mirrored."""
        count, _, height, width = images.shape
        padded = functional.pad(images, [self.padding] * 4)
        offsets = self.offsets[indices].to(images.device)
        flips = self.flips[indices].to(images.device)
        rows = offsets[:, :1] + torch.arange(height, device=images.device)
        columns = offsets[:, 1:] + torch.arange(width, device=images.device)
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        each = torch.arange(count, device=images.device)[:, None, None]
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
