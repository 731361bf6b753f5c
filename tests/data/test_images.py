"""Decoding and cropping: every kind of file that data sets contain, against plain PIL."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from strzoo.data.images import BrokenImageError, decode, prepare
from strzoo.data.loading import normalise
from strzoo.data.preprocessing import IMAGENET
from strzoo.zoo.registry import Preprocessing
from tests.helpers.photographs import jpeg, photographs


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


CAT = photographs()[1].crop((60, 40, 190, 140))
GREY = np.asarray(CAT.convert("L"))
BLACK_AND_WHITE = np.where(GREY > 127, 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(encode(CAT, "PNG"), np.asarray(CAT), id="PNG, also when named .JPEG"),
        pytest.param(
            encode(CAT.convert("L"), "PNG"), np.repeat(GREY[:, :, None], 3, 2), id="grey"
        ),
        pytest.param(
            encode(CAT.convert("P"), "PNG", transparency=bytes([7] * 256)),
            np.asarray(CAT.convert("P").convert("RGB")),
            id="palette with transparency",
        ),
        pytest.param(encode(CAT.convert("RGBA"), "PNG"), np.asarray(CAT), id="alpha"),
        pytest.param(
            # 16-bit values of which the low byte is noise: the high byte counts
            encode(Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "PNG"),
            np.repeat(GREY[:, :, None], 3, 2),
            id="16-bit grey",
        ),
        pytest.param(
            encode(Image.fromarray(BLACK_AND_WHITE).convert("1"), "PNG"),
            np.repeat(BLACK_AND_WHITE[:, :, None], 3, 2),
            id="one bit",
        ),
    ],
)  # fmt: skip
def test_every_kind_of_image_becomes_rgb(content: bytes, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(decode(content)), expected)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    found = np.asarray(decode(jpeg(CAT.convert("CMYK"))), dtype=int)
    assert np.abs(found - np.asarray(CAT)).mean() < 4  # JPEG's loss


def test_the_orientation_tag_is_ignored_as_in_the_published_evaluation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter
    plain, tagged = jpeg(CAT), jpeg(CAT, exif=exif)
    assert tagged != plain
    np.testing.assert_array_equal(np.asarray(decode(tagged)), np.asarray(decode(plain)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404", "no image format"),
        (jpeg(CAT)[:1500], "truncated"),
        (encode(CAT, "PNG")[:5000], "truncated"),
        (encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point"),
        (b"P6 300000 300000 255\n", "decompression bomb"),
        # PIL would start Ghostscript on it.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no image format"),
    ],
)
def test_an_unreadable_image_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(BrokenImageError, match=reason):
        decode(content)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from([(256, 224), (32, 32), (100, 160)])
)
def test_resize_and_crop_are_torchvisions_to_the_bit(
    width: int, height: int, sizes: tuple[int, int]
) -> None:
    image = photographs()[0].resize((width, height))
    steps = Preprocessing(*sizes, "bilinear", IMAGENET.mean, IMAGENET.std)
    if max(width, height) / min(width, height) > 20:
        return  # gigantic when resized
    reference = transforms.Compose([transforms.Resize(sizes[0]), transforms.CenterCrop(sizes[1])])
    np.testing.assert_array_equal(prepare(image, steps), np.asarray(reference(image)))


def test_normalised_values_are_torchvisions_to_the_bit() -> None:
    pixels = prepare(CAT, IMAGENET)
    reference = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(IMAGENET.mean, IMAGENET.std)]
    )
    found = normalise(torch.from_numpy(pixels.copy())[None], IMAGENET)
    assert torch.equal(found[0], reference(Image.fromarray(pixels)))
    assert found.is_contiguous(memory_format=torch.channels_last)
