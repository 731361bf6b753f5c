"""predict: the same answers from every kind of input, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import strzoo
from strzoo.data.images import BrokenImageError
from strzoo.data.preprocessing import SMALL
from strzoo.errors import OfflineError, StrzooError, UsageError
from strzoo.evaluation.predict import ImageLike, Prediction
from strzoo.settings import Settings
from tests.helpers.photographs import crop_photographs, reference_input, small_network


def run(images: ImageLike | list[ImageLike], **options: object) -> list[Prediction]:
    return strzoo.predict(small_network(), images, preprocessing=SMALL, **options)  # type: ignore[arg-type]


def test_every_kind_of_input_gets_the_same_probabilities(tmp_path: Path) -> None:
    image = crop_photographs(3)[2]
    path = tmp_path / "a.png"
    image.save(path)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    inputs: list[ImageLike] = [
        path, str(path), path.read_bytes(), image, image.convert("RGBA"), pixels,
        pixels.astype(np.float32) / 255, tensor, tensor.double() / 255, tmp_path,
    ]  # fmt: skip
    with torch.no_grad():
        chances = small_network()(reference_input(image, 32, 32)[None]).double().softmax(1)[0]
    order = chances.argsort(descending=True)[:3].tolist()
    results = run(inputs, top=3)
    assert len(results) == len(inputs)
    for result in results:
        assert [guess.index for guess in result.guesses] == order
        found = [guess.probability for guess in result.guesses]
        assert found == pytest.approx(chances[order].tolist(), rel=1e-5)
    assert results[0].source == str(path)
    assert results[0].guesses[0].name == f"class {order[0]}"
    assert [guess.index for guess in run(image)[0].guesses][:3] == order


def test_a_grey_array_is_a_grey_image() -> None:
    grey = crop_photographs(1)[0].convert("L")
    kinds = (grey, np.asarray(grey), torch.from_numpy(np.asarray(grey).copy())[None])
    assert len({p.guesses for p in run(list(kinds))}) == 1


def test_class_names_are_imagenets_or_the_given_ones(str_file: Path) -> None:
    guess = strzoo.predict(str_file, crop_photographs(1)[0], top=1)[0].guesses[0]
    from strzoo.data.imagenet_classes import list_classes

    known = list_classes()[guess.index]
    assert (guess.name, guess.wnid) == (known.name, known.wnid)
    names = [f"digit {i}" for i in range(10)]
    named = run(crop_photographs(1)[0], class_names=names)[0].guesses
    assert [g.name for g in named] == [names[g.index] for g in named]
    with pytest.raises(UsageError, match="3 class names are given, the model has 10 classes"):
        run(crop_photographs(1)[0], class_names=names[:3])


@pytest.mark.parametrize(
    ("image", "error", "named"),
    [
        (np.zeros((2, 5, 7), np.uint8), UsageError, "neither"),
        (np.full((8, 8, 3), 2.0), UsageError, "expected pixels from 0 to 1"),
        (np.full((8, 8, 3), np.nan), UsageError, "expected pixels from 0 to 1"),
        (np.zeros((8, 8, 3), np.int32), UsageError, "neither uint8, uint16 nor floats"),
        ("missing.jpg", UsageError, "missing.jpg does not exist"),
        ("https://example.invalid/a.jpg", UsageError, "pass --allow-urls"),
        (b"junk", BrokenImageError, "cannot read image 1"),
        ([], UsageError, "there are no images"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), BrokenImageError, "floating-point"),
    ],
)
def test_what_is_no_image_is_refused(
    image: ImageLike | list[ImageLike], error: type[StrzooError], named: str
) -> None:
    with pytest.raises(error, match=named):
        run(image)


def test_unreadable_images_can_be_reported_instead(tmp_path: Path) -> None:
    found = run([b"junk", crop_photographs(1)[0]], skip_broken=True)
    assert found[0].guesses == ()
    assert "no image format" in (found[0].error or "")
    assert len(found[1].guesses) == 5


def test_an_address_is_not_fetched_offline(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path, offline=True)
    with pytest.raises(OfflineError, match="the network is off"):
        run("http://127.0.0.1:1/a.jpg", allow_urls=True, settings=settings)
