"""From an encoded image to the pixels the network sees, exactly as the published evaluation.

PIL decodes; the orientation tag of EXIF is ignored, as torchvision's `ImageFolder` and the
published code ignore it. Grey, palette and CMYK images become RGB, 16-bit ones keep their high
byte, an alpha channel is dropped.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

from strzoo.borders import shorten_cause
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Limits
from strzoo.zoo.registry import Preprocessing

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


_PROGRAMS = ("EPS",)  # formats that PIL reads by starting another program on them
_FEW_PIXELS = 1 << 24  # up to here nobody looks for a limit


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
    with _decoding():
        try:
            with open_image(content) as image:
                return to_rgb(image)
        except Image.UnidentifiedImageError:
            start = content[:12]
            raise BrokenImageError(f"no image format is known that starts with {start!r}") from None


def open_image(content: bytes) -> Image.Image:
    """PIL's image of encoded bytes, of which the header alone is read; errors are PIL's."""
    Image.init()
    return Image.open(io.BytesIO(content), formats=[f for f in Image.ID if f not in _PROGRAMS])


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """A damaged file can make any decoder raise anything: it becomes a BrokenImageError."""
    try:
        with warnings.catch_warnings():
            # Corrupt EXIF, transparent palettes, large images: all decode as they should.
            warnings.simplefilter("ignore")
            yield
    except (StrzooError, MemoryError):
        raise
    except Exception as error:
        raise BrokenImageError(shorten_cause(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """`image`, of any mode of PIL's, as 8-bit RGB.

    Raises:
        BrokenImageError: it cannot be decoded, or its pixels are floating-point, which have no
            known range.
    """
    with _decoding():
        if image.mode == "RGB":
            image.load()
            return image
        if image.mode == "F":
            raise BrokenImageError("its pixels are floating-point; store it with 8 or 16 bits")
        if image.mode.startswith("I"):  # 16-bit grey; PIL itself would clip it to white
            values = np.asarray(image)
            wide = image.mode != "I" or int(values.max(initial=0)) > 255
            grey = (values >> 8 if wide else values).clip(0, 255).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if image.mode == "LAB":
            raise BrokenImageError("its pixels are CIELAB; store it as RGB")
        return image.convert("RGB")


def prepare(image: Image.Image, steps: Preprocessing) -> np.ndarray:
    """Short side resized, centre cropped: uint8 [crop, crop, 3].

    The rounding is torchvision's (`Resize`, `CenterCrop`); an image that is smaller than the
    crop after resizing gets a black border.

    Raises:
        BrokenImageError: it has no pixels, or is so narrow that the resized image would not fit in
            the memory.
        UsageError: the crop is larger than the limits allow.
    """
    check_crop(steps.crop)
    size = resized_size(image.size, steps.resize)
    width, height = image.size
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


def check_crop(crop: int) -> None:
    """Raise a UsageError if the limits of the environment allow no image of that side."""
    if crop * crop > _FEW_PIXELS:
        try:
            Limits.from_env().check("pixels", crop * crop, f"a crop of {crop} pixels")
        except IntegrityError as error:
            raise UsageError(str(error)) from error


def resized_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height once the short side is `short`, as torchvision rounds them.

    Raises:
        BrokenImageError: more pixels than `check_resized` allows.
    """
    width, height = size
    if not width or not height:
        raise BrokenImageError(f"an image of {width}x{height} pixels has none")
    if width <= height:
        made = short, int(short * height / width)
    else:
        made = int(short * width / height), short
    return check_resized(size, made)


def check_resized(size: tuple[int, int], made: tuple[int, int]) -> tuple[int, int]:
    """`made`, the size that an image of `size` is resized to, if the limits of the environment
    allow that many pixels: a line of 1 x 65500 becomes a gigapixel when its short side is 256.

    Raises:
        BrokenImageError: they do not.
    """
    if math.prod(made) > _FEW_PIXELS:
        try:
            Limits.from_env().check("pixels", math.prod(made), f"resized to {made[0]}x{made[1]} it")
        except IntegrityError as error:
            raise BrokenImageError(f"an image of {size[0]}x{size[1]} pixels: {error}") from error
    return made
