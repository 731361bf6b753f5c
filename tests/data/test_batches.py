"""What loaders and callers hand over has one meaning, or is refused in words."""

from __future__ import annotations

import collections
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from strzoo.data.batches import open_image, read_batch, read_labels, split_images
from strzoo.data.preprocessing import SMALL
from strzoo.errors import StrzooError, UsageError

X = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([3, 0, 9, 9, 1, 2])
Pair = collections.namedtuple("Pair", "image label")
BYTES = (torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255).byte()


@pytest.mark.parametrize(
    "labels",
    [
        Y, Y[:, None], Y.int(), Y.byte(), Y.float(), Y.double()[:, None], Y.half(), Y.tolist(),
        tuple(Y.tolist()), Y.numpy(), Y.numpy().astype(np.uint16), list(Y),
        [v[None] for v in Y], Y[:, None].tolist(), torch.nn.functional.one_hot(Y, 10),
        torch.nn.functional.one_hot(Y, 10).float().numpy(),
    ],
)  # fmt: skip
def test_labels_of_every_plain_form_are_the_same_numbers(labels: Any) -> None:
    images, found = read_batch((X, labels), 10)
    assert found.dtype == torch.int64
    assert found.tolist() == Y.tolist()
    assert torch.equal(images, X)


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y), [X, Y], (X, Y, torch.arange(6)), Pair(X, Y), {"pixel_values": X, "labels": Y},
        {"image": X, "label": Y, "path": ["a"] * 6}, {"x": X.numpy(), "y": Y.tolist()},
        (X.double(), Y), (X.numpy(), Y), (list(X), Y), ([v.numpy() for v in X], Y),
        (X.permute(0, 2, 3, 1), Y),
    ],
)  # fmt: skip
def test_batches_of_every_plain_form_are_the_same(batch: Any) -> None:
    images, labels = read_batch(batch, 10)
    assert (images.dtype, labels.tolist()) == (torch.float32, Y.tolist())
    torch.testing.assert_close(images, X)


def test_halves_become_floats_and_a_sample_becomes_a_batch() -> None:
    for kind in (torch.float16, torch.bfloat16):
        assert torch.equal(read_batch((X.to(kind), Y))[0], X.to(kind).float())
    images, labels = read_batch((X[2], 9), 10)
    assert (images.shape, labels.tolist()) == ((1, 3, 32, 32), [9])


def test_bytes_and_pil_images_are_normalised_as_torchvision_does() -> None:
    expected = transforms.Normalize(SMALL.mean, SMALL.std)(BYTES.float() / 255)
    pictures = [Image.fromarray(v.permute(1, 2, 0).numpy()) for v in BYTES]
    for images in (BYTES, BYTES.permute(0, 2, 3, 1), BYTES.numpy(), pictures, list(BYTES)):
        found, _ = read_batch((images, Y), 10, SMALL)
        torch.testing.assert_close(found.contiguous(), expected)
        with pytest.raises(UsageError, match="have to be normalised"):
            read_batch((images, Y), 10)
    grey, _ = read_batch((BYTES[:, :1], Y), 10, SMALL)
    same, _ = read_batch((BYTES[:, :1].expand(-1, 3, -1, -1), Y), 10, SMALL)
    assert torch.equal(grey, same)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (X, r"a batch is a tensor \[6, 3, 32, 32\] of float32; expected \(images, labels\)"),
        ((X,), r"a batch is a tuple of 1 \(Tensor\)"),
        ("images", "a batch is a str"),
        (None, "a batch is a NoneType"),
        ({"a": X, "b": Y}, "a mapping with the keys a, b; none of them is pixel_values"),
        ({"image": X}, "none of them is labels"),
        ((X, Y[:5]), "6 images and 5 labels"),
        ((X[0, 0], Y), r"images are a tensor \[32, 32\]"),
        ((X.long(), Y), "expected floats or uint8"),
        ((X, torch.rand(6, 10)), r"labels are a tensor \[6, 10\] of float32"),
        ((X, torch.rand(6)), "no whole numbers"),
        ((X, Y - 1), "labels go from -1 to 8; the network has 10 classes"),
        ((X, Y + 1), "labels go from 1 to 10; the network has 10 classes"),
        ((X, Y > 1), "expected class numbers"),
        ((X, ["cat"] * 6), r"labels are a list of 6 \(str, str, str, str, ...\)"),
        ((X, [None] * 6), "labels are a list of 6"),
        ((X, torch.full((6,), float("nan"))), "no whole numbers"),
        ((X, Y.to(torch.complex64)), "expected class numbers"),
        ((["a.jpg"] * 6, Y), "images are a str|images are an array|a list"),
        (([X[0], X[0, :, :5]], Y[:2]), "mixes shapes"),
        ((X[:, :, :0], Y), r"expected \[N, 3, H, W\]"),
        ((X, torch.zeros(6, 10)), r"labels are a tensor \[6, 10\]"),
        ((X, [[1, 2], [3]]), "labels are a list"),
        ((object(), Y), "images are a object"),
    ],
)
def test_other_batches_are_refused_in_words(batch: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_batch(batch, 10, SMALL)
    assert len(str(caught.value)) < 300


def test_one_hot_needs_as_many_columns_as_classes() -> None:
    rows = torch.nn.functional.one_hot(Y, 12)
    assert read_labels(rows).tolist() == Y.tolist()
    with pytest.raises(UsageError):
        read_labels(rows, 10)


def gradient(mode: str) -> Image.Image:
    values = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
    image = Image.fromarray(np.stack([values, values[::-1], 255 - values], 2))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "YCbCr", "HSV", "PA"])
def test_images_of_every_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    image = gradient(mode)
    found = open_image(image)
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_high_byte_in_every_form() -> None:
    deep = (np.arange(64 * 48).reshape(64, 48) * 20).astype(np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, 2)
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")
    wide = Image.fromarray(deep.astype(np.int32))
    for image in (Image.fromarray(deep), stream.getvalue(), deep, wide, deep[None]):
        np.testing.assert_array_equal(np.asarray(open_image(image)), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float16, torch.bfloat16])
def test_arrays_and_tensors_of_pixels_become_images(kind: Any) -> None:
    pixels = np.asarray(gradient("RGB"))
    alpha = np.concatenate([pixels, pixels[:, :, :1]], 2)
    for array in (pixels, pixels.transpose(2, 0, 1), alpha, alpha.transpose(2, 0, 1)):
        if kind is torch.bfloat16:
            image: Any = torch.from_numpy(array.copy()).float().div(255).to(kind)
            tolerance = 1
        else:
            image = array if kind is np.uint8 else (array / 255).astype(kind)
            tolerance = 0
        found = np.asarray(open_image(image)).astype(int)
        assert np.abs(found - pixels).max() <= tolerance


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 4, 5, 6), np.uint8), np.zeros(3), np.zeros((0, 3, 3)), np.zeros((4, 4), int),
        np.full((4, 4), np.nan), np.full((4, 4), 2.0), torch.zeros(2, 5, 7), 7, None, {"a": 1},
        b"", b"no image", "none.jpg", np.array(["x"]), Image.new("F", (3, 3)),
        Image.new("LAB", (3, 3)), np.zeros((4, 4), complex), torch.zeros(4, 4, dtype=torch.bool),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_words(image: Any) -> None:
    with pytest.raises(StrzooError) as caught:
        open_image(image)
    assert len(str(caught.value)) < 300


def test_batches_rows_and_lists_are_taken_apart() -> None:
    picture = gradient("RGB")
    assert len(list(split_images(BYTES))) == 6
    assert len(list(split_images(BYTES.numpy()))) == 6
    assert list(split_images({"image": picture, "label": 3})) == [picture]
    assert list(split_images([picture, {"img": picture}, "a.jpg"])) == [picture, picture, "a.jpg"]
    assert list(split_images(picture)) == [picture]
    with pytest.raises(UsageError, match="none of them is pixel_values"):
        list(split_images({"text": "x"}))
