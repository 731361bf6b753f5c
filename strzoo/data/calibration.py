"""Images to check and calibrate exports on: the user's, the bundled ones, and random ones."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from strzoo.arguments import check_path, show
from strzoo.data.images import INTERPOLATIONS, BrokenImageError, check_resized, decode, resized_size
from strzoo.data.imageset import ImageSet
from strzoo.data.preprocessing import CHANNELS, check_preprocessing, fit_channels, fit_preprocessing
from strzoo.data.trees import IMAGE_SUFFIXES, FolderTree
from strzoo.errors import UsageError
from strzoo.settings import user_path
from strzoo.zoo.registry import Preprocessing

# Reading photographs takes no torch, whose import is most of the time that a few images take.
if TYPE_CHECKING:
    from torch import Tensor

PHOTOGRAPHS = Path(__file__).resolve().parent / "photographs"
BUNDLED = ("photographs", "digits")
_LARGEST = 512  # images taken from a folder or a data set; a calibration needs no more
# Where a window is cut from a larger image: at its start, in the middle, at its end.
_THREE_CROPS: tuple[float, ...] = (0.0, 0.5, 1.0)
_CENTRE_CROP: tuple[float, ...] = (0.5,)

# A folder, the name of a bundled set, or images in memory.
Images = Union[str, os.PathLike[str], "Tensor", ImageSet]


@dataclass(frozen=True)
class Samples:
    """Images as a network takes them: [N, C, H, W] normalised, or uint8 [N, H, W, C]."""

    name: str
    images: Tensor

    def __len__(self) -> int:
        return len(self.images)


def load_samples(
    images: Images | None,
    input_size: tuple[int, int, int],
    steps: Preprocessing,
    *,
    as_bytes: bool = False,
) -> Samples:
    """`load_arrays` as tensors.

    Raises:
        UsageError, BrokenImageError, StrzooError: as `load_arrays`.
    """
    import torch

    name, values = load_arrays(images, input_size, steps, as_bytes=as_bytes)
    return Samples(name, torch.from_numpy(values))


def load_arrays(
    images: Images | np.ndarray | None,
    input_size: tuple[int, int, int],
    steps: Preprocessing,
    *,
    as_bytes: bool = False,
) -> tuple[str, np.ndarray]:
    """Real images for a network that takes `input_size` (channels, height, width).

    Args:
        images: a folder of images (searched with its subfolders, in name order), "photographs"
            or "digits" (bundled), an `ImageSet`, or a tensor or array of network inputs. By
            default the photographs; digits for a network of fewer than 16 pixels.
        input_size: images of other sizes are resized and cropped.
        steps: mean, standard deviation, interpolation and the ratio of resize to crop, which is
            that of `fit_preprocessing`, so that square images are those of evaluation.
        as_bytes: uint8 [N, H, W, 3], as built-in preprocessing takes them.

    Returns:
        What the images are called, and they: fp32 [N, C, H, W] or uint8 [N, H, W, 3].

    Raises:
        UsageError: no such folder or set, no images in it, or values of another shape.
        BrokenImageError, StrzooError: an image cannot be read.
    """
    steps = check_preprocessing(fit_preprocessing(steps, min(input_size[1:])))
    if images is None:
        images = "digits" if max(input_size[1:]) < 16 and not as_bytes else "photographs"
    if isinstance(images, ImageSet):
        images = images.images
    tensors = (np.ndarray, sys.modules["torch"].Tensor) if "torch" in sys.modules else np.ndarray
    if isinstance(images, tensors):
        return "the given images", _check_values(images, input_size, as_bytes)
    if not isinstance(images, str | os.PathLike):
        raise UsageError(
            f"images are {show(images)}; expected a folder, one of {', '.join(BUNDLED)}, an "
            "ImageSet or a tensor"
        )
    check_path(images, "images")
    text = os.fspath(images)
    if text == "digits" and not as_bytes:
        return "digits", _digits(input_size)
    if text == "photographs":
        tree, crops = FolderTree(PHOTOGRAPHS), _THREE_CROPS
    elif text == "digits":
        raise UsageError("the digits are for networks without built-in preprocessing")
    else:
        tree, crops = _list_images(user_path(text)), _CENTRE_CROP
    pixels = _read_pixels(tree, input_size, steps, crops)
    return text, pixels if as_bytes else normalise(pixels, steps)


def random_samples(
    input_size: tuple[int, int, int], count: int, *, as_bytes: bool = False, seed: int = 0
) -> Samples:
    """Standard normal inputs (uniform bytes for built-in preprocessing), always the same."""
    import torch

    channels, height, width = input_size
    generator = torch.Generator().manual_seed(seed)
    if as_bytes:
        shape = (count, height, width, channels)
        return Samples("random", torch.randint(0, 256, shape, generator=generator).byte())
    return Samples("random", torch.randn(count, channels, height, width, generator=generator))


def normalise(pixels: np.ndarray, steps: Preprocessing) -> np.ndarray:
    """uint8 [N, H, W, C] as fp32 [N, C, H, W], scaled to [0, 1], minus mean, over deviation."""
    values = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
    steps = fit_channels(steps, values.shape[1])
    mean, std = np.asarray(steps.mean, np.float32), np.asarray(steps.std, np.float32)
    return np.ascontiguousarray((values - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1))


def _check_values(
    images: Tensor | np.ndarray, input_size: tuple[int, int, int], as_bytes: bool
) -> np.ndarray:
    channels, height, width = input_size
    wanted = (height, width, channels) if as_bytes else (channels, height, width)
    dtype = "uint8" if as_bytes else "float32"
    found, shape = str(images.dtype).removeprefix("torch."), tuple(images.shape)
    if shape[1:] != wanted or found != dtype or not shape or shape[0] == 0:
        raise UsageError(
            f"images of shape {shape} and {found} were given; the network takes "
            f"(N, {', '.join(map(str, wanted))}) of {dtype}"
        )
    few = images[:_LARGEST]
    return np.ascontiguousarray(few if isinstance(few, np.ndarray) else few.detach().cpu().numpy())


def _digits(input_size: tuple[int, int, int]) -> np.ndarray:
    import torch

    from strzoo.data.digits import load_digits

    channels, height, width = input_size
    images = load_digits("train").images[:_LARGEST, :1]
    if (height, width) != tuple(images.shape[2:]):
        images = torch.nn.functional.interpolate(images, size=(height, width), mode="bilinear")
    return images.expand(-1, channels, -1, -1).contiguous().numpy()


def _list_images(folder: Path) -> FolderTree:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder of images; the bundled sets are {', '.join(BUNDLED)}"
        )
    tree = FolderTree(folder)
    if not tree.images:
        raise UsageError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")
    return tree


def _read_pixels(
    tree: FolderTree,
    input_size: tuple[int, int, int],
    steps: Preprocessing,
    crops: tuple[float, ...],
) -> np.ndarray:
    """uint8 [paths x crops, H, W, C]: the short side resized, a window at each crop position.

    Of many images some are taken, spread over all: classes lie one after the other. The first
    window of each comes first, so that three images are three photographs.

    Raises:
        BrokenImageError: an image cannot be read; it is named.
    """
    channels, height, width = input_size
    if channels not in CHANNELS:
        raise UsageError(
            f"photographs have 1 or 3 channels, the network takes {channels}: give a tensor"
        )
    windows: list[list[np.ndarray]] = [[] for _ in crops]
    step = max(1, len(tree.images) // _LARGEST)
    for name in tree.images[::step][:_LARGEST]:
        try:
            image = decode(tree.read(name))
            if height == width:
                sides = resized_size(image.size, steps.resize)
            else:
                ratio = max(height / image.height, width / image.width) * steps.resize / steps.crop
                sides = (round(image.width * ratio), round(image.height * ratio))
            size = check_resized(image.size, (max(width, sides[0]), max(height, sides[1])))
        except BrokenImageError as error:
            raise BrokenImageError(f"cannot read {tree.location}/{name}: {error}") from error
        image = image.resize(size, INTERPOLATIONS[steps.interpolation])
        image = image if channels == 3 else image.convert("L")  # as evaluation does, at last
        for position, kept in zip(sorted(crops, key=lambda c: abs(c - 0.5)), windows, strict=True):
            left = round((size[0] - width) * position)
            top = round((size[1] - height) * position)
            window = np.asarray(image.crop((left, top, left + width, top + height)))
            kept.append(window.reshape(height, width, channels))
    return np.stack([window for kept in windows for window in kept])
