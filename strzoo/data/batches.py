"""What loaders and callers hand over, as one form: a batch, its labels, one image.

Loaders differ: pairs, triples with an index, dictionaries, labels as lists, columns or one-hot
rows, images as bytes or halves. What has one plain meaning is converted; anything else is a
UsageError that says what came and what is expected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strzoo.borders import read_file
from strzoo.data.images import BrokenImageError, decode, prepare, to_rgb
from strzoo.data.loading import normalise
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Limits
from strzoo.zoo.registry import Preprocessing

# An encoded image (its path or bytes), or one in memory.
ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | Tensor

_IMAGE_KEYS = ("pixel_values", "images", "image", "img", "inputs", "input", "x")
_LABEL_KEYS = ("labels", "label", "targets", "target", "fine_label", "y")
_CHANNELS = (1, 3, 4)
_EXPECTED = "expected (images, labels) or {'pixel_values': images, 'labels': labels}"


def read_batch(
    batch: Any, num_classes: int | None = None, steps: Preprocessing | None = None
) -> tuple[Tensor, Tensor]:
    """Images and labels of one batch of a loader.

    Args:
        batch: a pair (further items, such as an index, are ignored) or a mapping.
        num_classes: outputs of the network, to check labels and recognise one-hot rows.
        steps: how images that are bytes or PIL's are normalised; without it they are refused.

    Returns:
        Images float32 [N, C, H, W] and labels int64 [N]. Floats are taken for normalised already.

    Raises:
        UsageError: the batch has another form; what came is named.
        BrokenImageError: an image of PIL's cannot be decoded.
    """
    if isinstance(batch, Mapping):
        images, labels = _take(batch, _IMAGE_KEYS), _take(batch, _LABEL_KEYS)
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        images, labels = batch[0], batch[1]
    else:
        raise UsageError(f"a batch is {describe(batch)}; {_EXPECTED}")
    made = read_images(images, steps)
    read = read_labels(labels, num_classes)
    if len(made) != len(read):
        raise UsageError(f"a batch has {len(made)} images and {len(read)} labels")
    return made, read


def read_images(images: Any, steps: Preprocessing | None = None) -> Tensor:
    """Images as float32 [N, C, H, W]; arguments and errors as of `read_batch`."""
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, list | tuple) and images:
        if all(isinstance(image, Image.Image) for image in images):
            rows = [prepare(to_rgb(image), _need(steps, "images of PIL's")) for image in images]
            return normalise(torch.from_numpy(np.stack(rows)), _need(steps, ""))
        images = _stack(images)
    if isinstance(images, np.ndarray):
        images = _as_tensor(images, "images")
    if not isinstance(images, Tensor):
        raise UsageError(f"images are {describe(images)}; expected a tensor [N, 3, H, W]")
    _check_plain(images, "images")
    if images.dim() == 3:  # one sample of a data set, without a loader
        images = images[None]
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise UsageError(f"images are {describe(images)}; expected [N, 3, H, W]")
    last = images.shape[1] not in _CHANNELS and images.shape[3] in _CHANNELS
    if images.dtype == torch.uint8:
        pixels = images if last else images.permute(0, 2, 3, 1)
        if pixels.shape[3] == 4:
            pixels = pixels[..., :3]
        if pixels.shape[3] == 1:
            pixels = pixels.expand(-1, -1, -1, 3)
        return normalise(pixels, _need(steps, "images of bytes"))
    if not images.is_floating_point():
        raise UsageError(f"images are {describe(images)}; expected floats or uint8")
    return (images.permute(0, 3, 1, 2) if last else images).to(torch.float32)


def read_labels(labels: Any, num_classes: int | None = None) -> Tensor:
    """Labels as int64 [N]: from whole numbers of any type, [N], [N, 1] or one-hot [N, classes].

    Raises:
        UsageError: they are something else, or not below `num_classes`.
    """
    if isinstance(labels, list | tuple):
        labels = [v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for v in labels]
        labels = _stack(labels) if any(isinstance(v, Tensor) for v in labels) else labels
    if not isinstance(labels, Tensor):
        labels = _as_tensor(labels, "labels")
    _check_plain(labels, "labels")
    given = describe(labels)
    if labels.dtype == torch.bool or labels.is_complex():
        raise UsageError(f"labels are {given}; expected class numbers, [N]")
    if labels.dim() == 0:
        labels = labels[None]
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() == 2 and _is_one_hot(labels, num_classes):
        labels = labels.argmax(1)
    if labels.dim() != 1:
        raise UsageError(f"labels are {given}; expected class numbers, [N] (or one-hot rows)")
    numbers = labels.to(torch.int64)
    if labels.is_floating_point() and not bool((numbers == labels).all()):
        raise UsageError("labels are floats that are no whole numbers; expected class numbers")
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= (num_classes or 1 << 62)):
        raise UsageError(
            f"labels go from {int(numbers.min())} to {int(numbers.max())}; "
            + ("" if num_classes is None else f"the network has {num_classes} classes, ")
            + "they count from 0 on"
        )
    return numbers


def split_images(images: Any) -> Iterator[ImageLike]:
    """Each image of a batch of them, of a mapping with one, or the image itself.

    A tensor or an array of four axes is a batch; rows of a data set (`{"image": ...}`) hold one.
    """
    if isinstance(images, Mapping):
        images = _take(images, _IMAGE_KEYS)
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        yield from images
    elif isinstance(images, list | tuple):
        for image in images:
            yield from split_images(image)
    else:
        yield images


def open_image(image: ImageLike) -> Image.Image:
    """Any image as RGB: a file, by its path or open, its bytes, one of PIL's of any mode, an array
    or a tensor.

    Raises:
        BrokenImageError: it cannot be read or decoded.
        UsageError: it is no image; what came and what is expected are named.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image))
    if isinstance(image, Tensor):
        _check_plain(image, "an image")
        return decode(to_pixels(_as_array(image)))
    if isinstance(image, np.ndarray):
        return decode(to_pixels(image))
    if callable(read := getattr(image, "read", None)):
        content = read()
        if not isinstance(content, bytes):
            raise UsageError("an image is a file that was opened as text; open it with 'rb'")
        return decode(content)
    if not isinstance(image, str | os.PathLike):
        raise UsageError(
            f"an image is {describe(image)}; expected a file, bytes, a PIL image, an array or a "
            "tensor"
        )
    try:
        content = read_file(image)
    except StrzooError as error:
        raise BrokenImageError(str(error)) from error
    return decode(content)


def to_pixels(array: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] or [H, W] from an array of pixels.

    Args:
        array: [H, W], [H, W, C] or [C, H, W] of 1, 3 or 4 channels (an alpha channel is dropped);
            uint8, uint16 (its high byte counts) or floats from 0 to 1.

    Raises:
        UsageError: another shape, type or range.
    """
    shape = array.shape
    if array.ndim == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 4:
        array = array[:, :, :3]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in shape:
        raise UsageError(f"an image of shape {shape} is neither [H, W, 3], [H, W] nor [3, H, W]")
    height, width = array.shape[:2]
    try:  # the array may be a view that repeats a few numbers
        Limits.from_env().check("pixels", height * width, f"an array of {height}x{width}")
    except IntegrityError as error:
        raise BrokenImageError(str(error)) from error
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        return np.ascontiguousarray((array >> 8).astype(np.uint8))
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(
            f"an image of {array.dtype} is neither uint8, uint16 nor floats from 0 to 1"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"an image of floats goes from {low:.3g} to {high:.3g}; expected pixels from 0 to 1, "
            "not normalised ones"
        )
    return np.ascontiguousarray(np.rint(array.astype(np.float64) * 255).astype(np.uint8))


def describe(value: Any) -> str:
    """What a value is, in a few words: type, shape, keys."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, list(value)[:8]))}"
    if isinstance(value, list | tuple):
        kinds = ", ".join(type(item).__name__ for item in value[:4])
        return f"a {type(value).__name__} of {len(value)} ({kinds}{', ...' if value[4:] else ''})"
    return f"a {type(value).__name__}"


def _check_plain(tensor: Tensor, what: str) -> None:
    """Raise a UsageError for tensors whose numbers cannot be read in order."""
    if tensor.is_nested:
        raise UsageError(f"{what} are a nested tensor; pass images of one size")
    if tensor.is_meta:
        raise UsageError(f"{what} are on the meta device, where no numbers are")
    if tensor.layout != torch.strided:
        raise UsageError(f"{what} are a sparse tensor; pass .to_dense() of it")
    if tensor.is_quantized:
        raise UsageError(f"{what} are a quantized tensor; pass .dequantize() of it")


def _take(batch: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    found = [key for key in keys if key in batch]
    if not found:
        raise UsageError(f"a batch is {describe(batch)}; none of them is {', '.join(keys)}")
    return batch[found[0]]


def _need(steps: Preprocessing | None, what: str) -> Preprocessing:
    if steps is None:
        raise UsageError(f"{what} have to be normalised, and the preprocessing is not known")
    return steps


def _stack(values: Sequence[Any]) -> Tensor:
    """Tensors or arrays of one shape as one tensor."""
    tensors = [v if isinstance(v, Tensor) else _as_tensor(v, "images") for v in values]
    shapes = {tuple(v.shape) for v in tensors}
    if len(shapes) > 1 or len({v.dtype for v in tensors}) > 1:
        raise UsageError(f"a batch mixes shapes or types: {', '.join(map(describe, tensors[:3]))}")
    return torch.stack(tensors)


def _as_tensor(values: Any, what: str) -> Tensor:
    try:
        array = np.asarray(values)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.kind == "u" and array.dtype != np.uint8:
            array = array.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UsageError(f"{what} are {describe(values)}; expected numbers in a tensor") from None


def _as_array(tensor: Tensor) -> np.ndarray:
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()  # numpy has no bfloat16
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _is_one_hot(labels: Tensor, num_classes: int | None) -> bool:
    """Whether each row has a single one among zeros, and as many columns as there are classes."""
    if num_classes is not None and labels.shape[1] != num_classes:
        return False
    binary = bool(((labels == 0) | (labels == 1)).all())
    return binary and bool((labels.sum(1) == 1).all())
