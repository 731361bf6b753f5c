"""The images that a network is calibrated on: a few hundred, without labels."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from strzoo.data.calibration import Images, load_samples
from strzoo.data.class_order import TRAINING
from strzoo.data.imageset import ImageSet
from strzoo.errors import UsageError
from strzoo.hub.source import Source
from strzoo.settings import user_path


def load_calibration(
    source: Source, data: Images, count: int, input_size: tuple[int, ...] | None = None
) -> Tensor:
    """At most `count` images as the network takes them, [N, C, H, W], spread over what there is.

    Args:
        source: the network they are for.
        data: a folder (its training images, if it says which they are), "photographs" or
            "digits", an `ImageSet`, or a tensor.
        count: at least 1.
        input_size: channels, height, width; by default those of a tensor, else of the network.

    Raises:
        UsageError: there are no such images.
        BrokenImageError, StrzooError: one cannot be read.
    """
    if isinstance(data, ImageSet):
        data = data.images
    size: Any = input_size
    if size is None:
        size = tuple(data.shape[1:]) if isinstance(data, Tensor) else source.input_size
    if len(size) != 3:
        raise UsageError(f"images of shape {size} are not (channels, height, width)")
    if isinstance(data, Tensor):
        data = data[_spread(len(data), count)]
    elif isinstance(data, str | os.PathLike):
        inner = (user_path(data) / name for name in TRAINING)
        data = next((path for path in inner if path.is_dir()), data)
    found = load_samples(data, size, source.preprocessing).images
    return found[_spread(len(found), count)]


def _spread(there: int, count: int) -> Tensor:
    """Numbers of `count` images among those there are, at equal distances."""
    return torch.linspace(0, max(there - 1, 0), min(there, count)).round().long()
