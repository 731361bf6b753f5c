"""The preprocessing of evaluation: its constants, checks, and form for another image size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from strzoo.errors import UsageError
from strzoo.zoo.registry import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# What the published networks were evaluated with.
IMAGENET = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What networks for small images are evaluated with by convention.
SMALL = replace(IMAGENET, resize=32, crop=32)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")  # PIL's
CHANNELS = (1, 3)  # of images: grey, RGB
_SMALLEST_RESIZED = 64  # smaller inputs are filled by the image as it is


def check_preprocessing(preprocessing: Preprocessing) -> Preprocessing:
    """`preprocessing`, after checking that it can be done.

    Raises:
        UsageError: PIL has no such interpolation, a size or deviation is not positive, or means and
            deviations are neither those of one channel nor of three.
    """
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"interpolation {preprocessing.interpolation!r} is not one of "
            f"{', '.join(INTERPOLATIONS)}"
        )
    if preprocessing.resize < 1 or preprocessing.crop < 1:
        raise UsageError(
            f"resize {preprocessing.resize} and crop {preprocessing.crop} must be at least 1"
        )
    mean, std = preprocessing.mean, preprocessing.std
    if len(mean) != len(std) or len(mean) not in CHANNELS:
        raise UsageError(
            f"mean {mean} and std {std} need three numbers each, or one for grey images"
        )
    if min(std) <= 0:
        raise UsageError(f"standard deviations {std} must be positive")
    return preprocessing


def fit_preprocessing(preprocessing: Preprocessing, side: int | None) -> Preprocessing:
    """`preprocessing` for square inputs of `side` pixels, the ratio of resize to crop kept.

    Args:
        side: pixels; None leaves everything as it is.
    """
    if side is None or side == preprocessing.crop:
        return preprocessing
    resize = side
    if side >= _SMALLEST_RESIZED:
        resize = round(side * preprocessing.resize / preprocessing.crop)
    return replace(preprocessing, resize=resize, crop=side)


def fit_channels(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """`preprocessing` for images of `channels`: grey ones have the average of three channels' means
    and of their deviations; the numbers of one channel are those of all three."""
    mean, std = preprocessing.mean, preprocessing.std
    if channels not in CHANNELS or channels == preprocessing.channels:
        return preprocessing
    if channels == 1:
        return replace(preprocessing, mean=(_average(mean),), std=(_average(std),))
    return replace(preprocessing, mean=mean * channels, std=std * channels)


def fit_image_size(preprocessing: Preprocessing, size: tuple[int, int, int]) -> Preprocessing:
    """`preprocessing` for images of `size` (channels, height, width); only the channels of images
    that are not square, which it cannot crop."""
    side = size[1] if size[1] == size[2] else None
    return fit_channels(fit_preprocessing(preprocessing, side), size[0])


def override_preprocessing(preprocessing: Preprocessing, **changes: Any) -> Preprocessing:
    """`preprocessing` with the fields of `changes` that are not None; a crop alone keeps the ratio
    of resize to crop."""
    given = {name: value for name, value in changes.items() if value is not None}
    if "crop" in given and "resize" not in given:
        crop = given["crop"]
        ratio = preprocessing.resize / preprocessing.crop
        given["resize"] = max(crop, round(crop * ratio))
    return check_preprocessing(replace(preprocessing, **given))


def build_transforms(preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """torchvision transforms: a PIL image in, normalised float32 [3, crop, crop] out, or [1, crop,
    crop] for grey images.

    Bilinear (or the named) resize of the short side, centre crop, scale to [0, 1], normalise.

    Raises:
        UsageError: torchvision has no such interpolation.
    """
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    modes = {mode.value: mode for mode in InterpolationMode}
    if preprocessing.interpolation not in modes:
        raise UsageError(
            f"interpolation {preprocessing.interpolation!r} is not one of {', '.join(modes)}"
        )
    compose: Callable[[Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(
                preprocessing.resize, interpolation=modes[preprocessing.interpolation]
            ),
            transforms.CenterCrop(preprocessing.crop),
            *([transforms.Grayscale()] if preprocessing.channels == 1 else []),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    return compose


def _average(values: tuple[float, ...]) -> float:
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)
