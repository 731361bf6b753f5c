"""Fashion-MNIST out of Debian's package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
from pathlib import Path

import harness  # noqa: F401, puts the checkout on the path
import numpy as np
import torch
from torch import Tensor, nn

from strzoo.data.imageset import ImageSet
from strzoo.errors import UsageError

PACKAGE_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load_fashion(folder: Path, count: int) -> tuple[ImageSet, ImageSet]:
    """`count` of the 60,000 training images (the same ones always) and the 10,000 test images,
    float32 [N, 3, 32, 32], normalised by mean and deviation of the training images used.

    Raises:
        UsageError: the folder lacks a file.
    """
    chosen = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:count]
    pixels = [read_idx(folder, "train-images-idx3-ubyte.gz")[chosen]]
    pixels.append(read_idx(folder, "t10k-images-idx3-ubyte.gz"))
    labels = [read_idx(folder, "train-labels-idx1-ubyte.gz")[chosen]]
    labels.append(read_idx(folder, "t10k-labels-idx1-ubyte.gz"))
    grey = [nn.functional.pad(images.float(), (2, 2, 2, 2)).unsqueeze(1) for images in pixels]
    deviation, mean = torch.std_mean(grey[0])
    train, test = (
        ImageSet(((images - mean) / deviation).expand(-1, 3, -1, -1), named.long(), 10)
        for images, named in zip(grey, labels, strict=True)
    )
    return train, test


def read_idx(folder: Path, name: str) -> Tensor:
    """An array of bytes in the idx format: two zeros, the type (8), the number of dimensions, each
    of them as a big-endian int32, the data."""
    try:
        raw = gzip.decompress((folder / name).read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no {name}; install Debian's package dataset-fashion-mnist, or name "
            "the folder of the four files with --folder"
        ) from None
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4).tolist()
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())
