"""predict: the most likely classes of images, from files, PIL images, arrays or tensors."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strzoo.arguments import check_path, checked
from strzoo.data.batches import ImageLike, open_image, split_images
from strzoo.data.imagenet_classes import COUNT, list_classes
from strzoo.data.images import BrokenImageError, decode, prepare
from strzoo.data.trees import FolderTree
from strzoo.errors import NetworkError, OfflineError, StrzooError, UsageError
from strzoo.evaluation.opener import open_runner
from strzoo.evaluation.runner import Runner, RunnerOptions, check_finite
from strzoo.hub.resolve import Model, resolve
from strzoo.settings import Settings
from strzoo.zoo.registry import Preprocessing

log = logging.getLogger(__name__)

_SINGLE = (
    *(str, os.PathLike, bytes, bytearray, memoryview, io.IOBase),
    *(Image.Image, np.ndarray, Tensor, Mapping),
)
_BATCH = 32
_ADDRESS = ("http://", "https://")
_LARGEST_DOWNLOAD = 64 << 20  # bytes; no photograph comes near it
_DOWNLOAD_SECONDS = 60.0


@dataclass(frozen=True)
class Guess:
    """A class and its probability. `wnid` is empty for classes that are not ImageNet's."""

    index: int
    name: str
    wnid: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image, best first; or why it could not be read."""

    source: str
    guesses: tuple[Guess, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "image": self.source,
            "guesses": [vars(guess) for guess in self.guesses],
            **({"error": self.error} if self.error else {}),
        }


@checked
def predict(
    model: Model,
    images: ImageLike | Iterable[ImageLike],
    *,
    top: int = 5,
    class_names: Sequence[str] = (),
    format: str | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    providers: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    allow_urls: bool = False,
    skip_broken: bool = False,
    settings: Settings | None = None,
    engine: str | None = None,
    output: str | None = None,
    background: str | None = None,
) -> list[Prediction]:
    """The `top` most likely classes of each image, with their probabilities.

    Args:
        model: a model id, a checkpoint, ONNX or .strz file, a `Checkpoint`, a `SparseModel` or
            any network.
        images: one or several of: a file, a folder (all images below it), an address (only with
            `allow_urls`), an open file, encoded bytes, a PIL image, an array or tensor of pixels
            (uint8 [H, W, 3], [H, W] or [3, H, W], with or without an alpha channel; uint16, or
            floats from 0 to 1, of these shapes; or a batch [N, ...] of them), a row of a data set
            (`{"image": ...}`).
        top: classes per image.
        class_names: names of the network's classes; ImageNet's for 1000 classes, and an ONNX
            file's own, are known.
        format, device, precision, providers, preprocessing, settings, engine: as `strzoo.evaluate`.
        output: name of the output that answers, for an ONNX file with several.
        background: "first", "last" or "none": where a class is that no data set has; by default
            recognised in networks of 1001 classes.
        allow_urls: fetch http and https addresses.
        skip_broken: give unreadable images a `Prediction` with `error`, instead of raising.

    Returns:
        A `Prediction` per image, in the order given; probabilities from 0 to 1.

    Raises:
        UsageError: an argument is not valid, there are no images, or an address is not allowed.
        BrokenImageError: an image cannot be read; the message names it.
        OfflineError, NetworkError: an address cannot be fetched.
        StrzooError and its subclasses: the model cannot be had.
    """
    if top < 1:
        raise UsageError(f"top is {top}; it must be at least 1")
    options = RunnerOptions(
        engine,
        format,
        device,
        precision,
        providers=providers,
        preprocessing=preprocessing,
        output=output,
        background=background,
    )
    source = resolve(model, format=format, settings=settings)
    settings = source.settings
    if isinstance(images, Iterable) and not isinstance(images, _SINGLE):
        images = list(images)  # a generator, say
    sources = list(_expand(list(split_images(images)), allow_urls))
    if not sources:
        raise UsageError("there are no images to predict")
    with open_runner(source, options) as runner:
        results: list[Prediction] = []
        for start in range(0, len(sources), _BATCH):
            chosen = sources[start : start + _BATCH]
            results += _predict_batch(runner, chosen, top, class_names, skip_broken, settings)
        for note in runner.reader.notes:
            log.warning("%s: %s", runner.name, note)
    return results


def _predict_batch(
    runner: Runner,
    sources: Sequence[tuple[str, ImageLike]],
    top: int,
    class_names: Sequence[str],
    skip_broken: bool,
    settings: Settings,
) -> list[Prediction]:
    pixels, errors = [], {}
    for row, (name, source) in enumerate(sources):
        try:
            pixels.append(prepare(_open(source, settings), runner.preprocessing))
        except BrokenImageError as error:
            if not skip_broken:
                reason = str(error) if name in str(error) else f"cannot read {name}: {error}"
                raise BrokenImageError(
                    f"{reason}; pass --skip-broken (skip_broken=True) to go on with the others"
                ) from error
            errors[row] = str(error)
    rows: Iterator[Tensor] = iter(())
    if pixels:
        size = runner.fixed_batch or len(pixels)
        parts = []
        for start in range(0, len(pixels), size):
            some = pixels[start : start + size]
            full = some + some[:1] * (size - len(some))
            inputs = runner.prepare(torch.from_numpy(np.stack(full)).to(runner.device))
            parts.append(runner.run_at_once(inputs)[: len(some)].cpu())
        rows = iter(torch.cat(parts))
    results = []
    for row, (name, _) in enumerate(sources):
        if row in errors:
            results.append(Prediction(name, (), errors[row]))
        else:
            results.append(Prediction(name, _guess(next(rows), runner, top, class_names)))
    return results


def _guess(
    logits: Tensor, runner: Runner, top: int, class_names: Sequence[str]
) -> tuple[Guess, ...]:
    check_finite(logits.numpy(), runner)
    names = list(class_names or runner.class_names)
    if names and len(names) != len(logits):
        raise UsageError(f"{len(names)} class names are given, the model has {len(logits)} classes")
    classes = list_classes() if len(logits) == COUNT and not class_names else ()
    chances = runner.reader.probabilities(logits)
    order = torch.sort(chances, descending=True, stable=True).indices[:top].tolist()
    return tuple(
        Guess(
            index,
            names[index] if names else classes[index].name if classes else f"class {index}",
            classes[index].wnid if classes else "",
            float(chances[index]),
        )
        for index in order
    )


def _expand(images: Sequence[ImageLike], allow_urls: bool) -> Iterator[tuple[str, ImageLike]]:
    """Each image with a name for it; folders become their images."""
    for number, image in enumerate(images, 1):
        if not isinstance(image, str | os.PathLike):
            yield f"image {number}", image
            continue
        text = os.fspath(image)
        if not text.startswith(_ADDRESS):
            check_path(image, "image")
        if text.startswith(_ADDRESS):
            if not allow_urls:
                raise UsageError(
                    f"{text} is an address; pass --allow-urls (allow_urls=True) to fetch it"
                )
            yield text, text
        elif Path(text).is_dir():
            tree = FolderTree(Path(text))
            if not tree.images:
                raise UsageError(f"{text} has no images")
            for name in tree.images:
                path = os.path.join(text, name)
                yield path, path
        elif Path(text).exists():
            yield text, text
        else:
            raise UsageError(f"{text} does not exist; give image files, folders or -")


def _open(image: ImageLike, settings: Settings) -> Image.Image:
    """Any image as RGB, one at an address included."""
    if isinstance(image, str) and image.startswith(_ADDRESS):
        return decode(_fetch(image, settings))
    return open_image(image)


def _fetch(url: str, settings: Settings) -> bytes:
    """The body of an address, within limits of size and time."""
    from strzoo.downloads.sources import check_status
    from strzoo.downloads.web import Deadline, Network, Web

    if settings.offline:
        raise OfflineError(f"{url} is not fetched: the network is off")
    web = Web(Network(total_time=_DOWNLOAD_SECONDS), Deadline(_DOWNLOAD_SECONDS))
    try:
        with web.get(url, {}) as answer:
            check_status(answer)
            content = bytearray()
            while block := answer.read():
                content += block
                if len(content) > _LARGEST_DOWNLOAD:
                    raise StrzooError(f"{url} is larger than {_LARGEST_DOWNLOAD >> 20} MiB")
            return bytes(content)
    except NetworkError as error:
        raise type(error)(f"{url}: {error}") from error
    finally:
        web.close()
