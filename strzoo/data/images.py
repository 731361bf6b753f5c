"""From an encoded image to the pixels the network sees, exactly as the published evaluation.

PIL decodes; the orientation tag of EXIF is ignored, as torchvision's `ImageFolder` and the
published code ignore it. Grey, palette and CMYK images become RGB, 16-bit ones keep their high
byte, an alpha channel is dropped.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from strzoo.errors import IntegrityError
from strzoo.zoo.registry import Preprocessing

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


class BrokenImageError(IntegrityError):
    """An image cannot be decoded. Exit code 4."""


def decode(content: bytes | np.ndarray) -> Image.Image:
    """An RGB image from an encoded one, or from pixels uint8 [H, W, 3] (or [H, W]).

    Raises:
        BrokenImageError: it is empty, cut off, damaged, of an unknown format or too large.
    """
    if isinstance(content, np.ndarray):
        return Image.fromarray(content).convert("RGB")
    if not content:
        raise BrokenImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Corrupt EXIF, transparent palettes, large images: all decode as they should.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                return to_rgb(image)
    except Image.UnidentifiedImageError:
        start = content[:12]
        raise BrokenImageError(f"no image format is known that starts with {start!r}") from None
    except Exception as error:  # a damaged file can make any decoder raise anything
        if isinstance(error, BrokenImageError | MemoryError):
            raise
        raise BrokenImageError(" ".join(str(error).split()) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as 8-bit RGB.

    Raises:
        BrokenImageError: its pixels are floating-point, which have no known range.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "F":
        raise BrokenImageError("its pixels are floating-point; store it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; PIL itself would clip it to white
        values = np.asarray(image).astype(np.int64)
        wide = image.mode != "I" or int(values.max(initial=0)) > 255
        grey = (values >> 8 if wide else values).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


def prepare(image: Image.Image, steps: Preprocessing) -> np.ndarray:
    """Short side resized, centre cropped: uint8 [crop, crop, 3].

    The rounding is torchvision's (`Resize`, `CenterCrop`); an image that is smaller than the
    crop after resizing gets a black border.
    """
    width, height = image.size
    size = _resized(width, height, steps.resize)
    if size != (width, height):
        image = image.resize(size, INTERPOLATIONS[steps.interpolation])
    width, height = size
    crop = steps.crop
    if width < crop or height < crop:
        canvas = Image.new("RGB", (max(width, crop), max(height, crop)))
        canvas.paste(image, (max(crop - width, 0) // 2, max(crop - height, 0) // 2))
        image, (width, height) = canvas, canvas.size
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def _resized(width: int, height: int, short: int) -> tuple[int, int]:
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short
