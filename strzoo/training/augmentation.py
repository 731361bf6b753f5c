"""Random crops and flips. What an image gets depends on seed, epoch and its number alone, so it is
the same with any number of workers, processes and interruptions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from strzoo.data.images import INTERPOLATIONS, prepare
from strzoo.errors import UsageError
from strzoo.training.config import TrainConfig
from strzoo.training.dotted import call_dotted
from strzoo.training.random_state import seeded_randomness
from strzoo.zoo.registry import Preprocessing

AREA = (0.08, 1.0)  # of the image; the usual random resized crop of ImageNet training
RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_POLICIES = {
    "randaugment": "torchvision.transforms.RandAugment",
    "trivialaugment": "torchvision.transforms.TrivialAugmentWide",
}
Policy = Callable[[Image.Image], Image.Image]


def build_policy(config: TrainConfig) -> Policy | None:
    """The transform of PIL images that `config.policy` names; None without one.

    Raises:
        StrzooError: its code cannot be imported.
        UsageError: it cannot be made with these arguments.
    """
    if config.policy is None:
        return None
    path = _POLICIES.get(config.policy, config.policy)
    made: Policy = call_dotted(path, dict(config.policy_args), "policy")
    return made


@dataclass(frozen=True)
class RandomTransform:
    """From an RGB image and its number to uint8 [crop, crop, 3], for one epoch. `kind` is one of
    the augmentations of `TrainConfig`, `padding` in pixels; `area` and `ratio` are those of a
    resized crop; `policy` is applied at the end."""

    kind: str
    preprocessing: Preprocessing
    padding: int
    seed: int
    epoch: int
    area: tuple[float, ...] = AREA
    ratio: tuple[float, ...] = RATIO
    policy: Policy | None = None

    def __call__(self, image: Image.Image, index: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, self.epoch, index))
        pixels = self._cropped(image, random)
        return pixels if self.policy is None else self._changed(pixels, random)

    def _cropped(self, image: Image.Image, random: np.random.Generator) -> np.ndarray:
        if self.kind == "none":
            return prepare(image, self.preprocessing)
        if self.kind == "resized_crop_flip":
            pixels = np.asarray(self._resized_crop(image, random))
        else:
            pixels = self._shifted(prepare(image, self.preprocessing), random)
        flips = self.kind.endswith("flip") and random.random() < 0.5
        return pixels[:, ::-1] if flips else pixels

    def _resized_crop(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        left, top, width, height = draw_box(*image.size, random, self.area, self.ratio)
        crop = image.crop((left, top, left + width, top + height))
        side = self.preprocessing.crop
        return crop.resize((side, side), INTERPOLATIONS[self.preprocessing.interpolation])

    def _changed(self, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The pixels after the policy, which draws from the global generators."""
        assert self.policy is not None
        image = Image.fromarray(np.ascontiguousarray(pixels))
        with seeded_randomness(int(random.integers(2**31))):
            changed = np.asarray(self.policy(image))
        if changed.shape != pixels.shape or changed.dtype != np.uint8:
            raise UsageError(
                f"the policy gives {changed.dtype} of shape {changed.shape}, not an RGB image of "
                f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
            )
        return changed

    def _shifted(self, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        top, left = random.integers(0, 2 * self.padding + 1, 2)
        around = ((self.padding, self.padding), (self.padding, self.padding), (0, 0))
        side = self.preprocessing.crop
        return np.pad(pixels, around)[top : top + side, left : left + side]


def draw_box(
    width: int,
    height: int,
    random: np.random.Generator,
    areas: tuple[float, ...] = AREA,
    ratios: tuple[float, ...] = RATIO,
) -> tuple[int, int, int, int]:
    """A random part of an image.

    Args:
        width, height: of the image, in pixels.
        random: source of randomness.
        areas: least and largest part of the area; by default 8 to 100 %.
        ratios: least and largest width / height; by default 3:4 to 4:3.

    Returns:
        Left, top, width and height in pixels; the centre if no such part is found in ten tries.
    """
    low, high = math.log(ratios[0]), math.log(ratios[1])
    for _ in range(_TRIES):
        area = width * height * random.uniform(areas[0], areas[1])
        ratio = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return (
                int(random.integers(0, width - w + 1)),
                int(random.integers(0, height - h + 1)),
                w,
                h,
            )
    w = min(width, max(1, round(height * ratios[1])))
    h = min(height, max(1, round(width / ratios[0])))
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
