"""Many images of different sizes resized and cropped at once, as two products of matrices.

On a GPU one image after the other is some thousand small kernels for a batch, which take longer
than the network does. A bilinear filter with antialiasing is linear in rows and in columns, so the
pixels that the crop keeps are A · image · Bᵀ, with a matrix of triangles for each side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST = 1 << 28  # values of the padded images that are resized at once: 1 GB


def resize_and_crop(images: Sequence[Tensor], resize: int, crop: int) -> Tensor:
    """The centre of each image, its short side resized (bilinear, antialiased).

    Args:
        images: uint8 [3, H, W] each, on one device.
        resize: pixels of the short side, at least `crop`.
        crop: pixels of a side.

    Returns:
        uint8 [B, crop, crop, 3]; PIL, which rounds between rows and columns, can differ by one.
    """
    parts: list[Tensor] = []
    group: list[Tensor] = []
    height = width = 0
    for image in images:
        most_high, most_wide = max(height, image.shape[1]), max(width, image.shape[2])
        if group and (len(group) + 1) * 3 * most_high * most_wide > _MOST:
            parts.append(_resize_group(group, resize, crop))
            group, most_high, most_wide = [], image.shape[1], image.shape[2]
        group.append(image)
        height, width = most_high, most_wide
    parts.append(_resize_group(group, resize, crop))
    return torch.cat(parts)


def _resize_group(images: Sequence[Tensor], resize: int, crop: int) -> Tensor:
    sizes = [tuple(image.shape[1:]) for image in images]
    high, wide = (max(column) for column in zip(*sizes, strict=True))
    device = images[0].device
    padded = torch.zeros(len(images), 3, high, wide, device=device)
    for row, image in enumerate(images):
        padded[row, :, : image.shape[1], : image.shape[2]] = image
    shrunk = [_shrunken(size, resize) for size in sizes]
    rows = _triangles([s[0] for s in sizes], [n[0] for n in shrunk], crop, high, device)
    columns = _triangles([s[1] for s in sizes], [n[1] for n in shrunk], crop, wide, device)
    narrow = padded.flatten(1, 2) @ columns.mT
    pixels = rows[:, None] @ narrow.unflatten(1, (3, high))
    return pixels.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _shrunken(size: tuple[int, ...], resize: int) -> tuple[int, int]:
    """Height and width once the short side is `resize`, rounded as torchvision does."""
    height, width = size
    if width <= height:
        return int(resize * height / width), resize
    return resize, int(resize * width / height)


def _triangles(
    before: Sequence[int], after: Sequence[int], crop: int, longest: int, device: torch.device
) -> Tensor:
    """The filter of one side [B, crop, longest]: row i of an image weighs the pixels that make
    pixel i of its crop, and adds up to 1.

    Args:
        before, after: pixels of the side of each image, and once it is resized.
        crop: pixels that are kept of `after`, those in the middle.
        longest: the largest of `before`.
        device: where the result goes.
    """
    sides = torch.tensor([before, after, [round((n - crop) / 2) for n in after]]).to(device)
    size, resized, first = sides.float()[:, :, None, None]
    scale = size / resized
    centre = (first + torch.arange(crop, device=device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(longest, device=device)[None, None] + 0.5
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight.masked_fill(pixel > size, 0)
    return weight / weight.sum(2, keepdim=True)
