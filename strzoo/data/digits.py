"""The bundled handwritten digits: 1,797 real images, enough to train on in seconds.

Source and licence: DIGITS.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from strzoo.arguments import checked
from strzoo.data.imageset import ImageSet
from strzoo.errors import UsageError

_PATH = Path(__file__).resolve().parent / "digits.npz"
SPLITS = ("train", "test", "all")
_HELD_OUT = 5  # every fifth image is held out for test


@checked
def load_digits(split: str = "all") -> ImageSet:
    """The digits as [N, 3, 8, 8], grey repeated on three channels, mean 0 and deviation 1.

    Args:
        split: "train" (1,437 images), "test" (360: every fifth, held out) or "all".

    Returns:
        Images float32 [N, 3, 8, 8] and labels int64 [N].

    Raises:
        UsageError: `split` is none of these.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    with np.load(_PATH) as stored:
        images = torch.from_numpy(stored["images"].astype(np.float32))
        labels = torch.from_numpy(stored["labels"].astype(np.int64))
    images = (images - images.mean()) / images.std()
    images = images[:, None].expand(-1, 3, -1, -1).contiguous()
    held_out = torch.arange(len(labels)) % _HELD_OUT == 0
    chosen = {"train": ~held_out, "test": held_out, "all": held_out | True}[split]
    return ImageSet(images[chosen], labels[chosen], num_classes=10)
