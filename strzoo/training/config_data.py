"""The keys of a training configuration about the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strzoo.data.preprocessing import IMAGENET, INTERPOLATIONS
from strzoo.training.keys import (
    CLOSED_FRACTION,
    DENSITY,
    FIXED,
    FRACTION,
    FREE,
    NOT_NEGATIVE,
    POSITIVE,
    key,
)
from strzoo.zoo.registry import Preprocessing

DATASETS = ("folder", "cifar10", "cifar100", "digits")
AUGMENTATIONS = ("resized_crop_flip", "pad_crop_flip", "pad_crop", "none")
POLICIES = ("randaugment", "trivialaugment")


@dataclass(frozen=True)
class DataKeys:
    """The keys of a training configuration about the images."""

    dataset: str = key(
        "folder", "images: a folder of classes (as ImageNet) or a known set",
        choices=DATASETS, resuming=FIXED,
    )  # fmt: skip
    data: str | None = key(
        None, "folder of the data set (train/ and val/), or CIFAR's files", resuming=FREE
    )
    validation: str | None = key(
        None, "validation images, if they are not found in data", resuming=FREE
    )
    validation_share: float = key(
        0.1, "of each class, held out of a folder without validation images",
        within=FRACTION, resuming=FIXED,
    )  # fmt: skip
    augmentation: str = key("resized_crop_flip", "of the training images", choices=AUGMENTATIONS)
    padding: int = key(4, "pixels around the image for pad_crop", within=NOT_NEGATIVE)
    crop_area: tuple[float, ...] = key(
        (0.08, 1.0), "resized_crop_flip: least and largest part of the area"
    )
    crop_ratio: tuple[float, ...] = key(
        (3 / 4, 4 / 3), "resized_crop_flip: least and largest width / height"
    )
    policy: str | None = key(
        None, "colours and shapes are changed, too: randaugment, trivialaugment, or the dotted "
        "path of a class that makes such a transform of PIL images",
        choices=POLICIES, dotted=True,
    )  # fmt: skip
    policy_args: tuple[tuple[str, Any], ...] = key((), "policy_args.NAME=VALUE: its arguments")
    random_erasing: float = key(
        0.0, "share of the training images that lose a rectangle", within=CLOSED_FRACTION
    )
    mixup: float = key(0.0, "alpha of mixup; 0 leaves it out", within=NOT_NEGATIVE)
    cutmix: float = key(
        0.0, "alpha of cutmix; with mixup, one of them for each batch", within=NOT_NEGATIVE
    )
    image_size: int | None = key(
        None, "pixels of a side that the network sees (file-based data sets); none: those of the "
        "network's source or of start_from, else 224 (32 for CIFAR)", within=POSITIVE,
    )  # fmt: skip
    crop_pct: float | None = key(
        None, "validation: image_size / the short side that is resized to; none: as image_size, "
        "else 0.875", within=DENSITY,
    )  # fmt: skip
    interpolation: str | None = key(
        None, "of resizing, as PIL calls it; none: as image_size, else bilinear",
        choices=INTERPOLATIONS,
    )  # fmt: skip
    mean: tuple[float, ...] | None = key(
        None,
        "of the channels, subtracted; one number for grey images; none: as image_size, else "
        "ImageNet's (or CIFAR's), their average for a network of one channel",
    )
    std: tuple[float, ...] | None = key(None, "of the channels, divided by; none: as mean")
    workers: int | None = key(
        None, "decoding processes; none: one per core", within=NOT_NEGATIVE, resuming=FREE
    )

    def preprocessing(self, usual: Preprocessing = IMAGENET) -> Preprocessing:
        """How images are prepared for validation; what is open is as in `usual`."""
        side = self.image_size or usual.crop
        share = self.crop_pct or usual.crop / usual.resize
        mean, std = self.mean or usual.mean, self.std or usual.std
        return Preprocessing(
            round(side / share),
            side,
            self.interpolation or usual.interpolation,
            mean,
            std,
        )
