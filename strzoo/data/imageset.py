"""Images and labels in memory, for data sets that fit there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, repr=False)
class ImageSet:
    """Images [N, 3, H, W] (float32, normalised) and labels [N] (int64)."""

    images: Tensor
    labels: Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape))
        return f"ImageSet({shape} images, {self.num_classes} classes)"
