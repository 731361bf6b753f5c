"""Real photographs to evaluate on, cut from those that scikit-image and scikit-learn bundle."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import strzoo

_SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg")
_SKLEARN = ("china.jpg", "flower.jpg")


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """Seven photographs in RGB, 300 pixels or more on each side."""
    import skimage
    import sklearn

    skimage_folder = Path(skimage.__file__).parent / "data"
    sklearn_folder = Path(sklearn.__file__).parent / "datasets" / "images"
    paths = [skimage_folder / name for name in _SKIMAGE]
    paths += [sklearn_folder / name for name in _SKLEARN]
    return tuple(Image.open(path).convert("RGB") for path in paths)


def crop_photographs(count: int, seed: int = 0) -> list[Image.Image]:
    """`count` different pieces of 100 to 220 pixels, upright and lying."""
    random = np.random.default_rng(seed)
    pieces = []
    for number in range(count):
        image = photographs()[number % len(photographs())]
        width, height = (int(n) for n in random.integers(100, 220, 2))
        left = int(random.integers(0, image.width - width))
        top = int(random.integers(0, image.height - height))
        pieces.append(image.crop((left, top, left + width, top + height)))
    return pieces


def jpeg(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def write_class_folders(
    folder: Path, classes: Sequence[str], labels: Sequence[int], seed: int = 0
) -> list[Path]:
    """One JPEG for each label, in the folder of its class; the paths in that order."""
    paths = []
    for number, (label, image) in enumerate(
        zip(labels, crop_photographs(len(labels), seed), strict=True)
    ):
        path = folder / classes[label] / f"{number:03}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(image))
        paths.append(path)
    return paths


def reference_input(
    image: Image.Image,
    resize: int = 256,
    crop: int = 224,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> torch.Tensor:
    """The published preprocessing in plain PIL and numpy: [3, crop, crop]."""
    image = image.convert("RGB")
    width, height = image.size
    if width <= height:
        size = (resize, int(resize * height / width))
    else:
        size = (int(resize * width / height), resize)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), dtype=np.float32)
    values = (pixels / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def reference_logits(
    model: nn.Module, paths: Sequence[Path], resize: int = 256, crop: int = 224
) -> torch.Tensor:
    """One image after the other through the network: [N, classes]."""
    model.eval()
    with torch.no_grad():
        return torch.cat(
            [model(reference_input(Image.open(path), resize, crop)[None]) for path in paths]
        )


def small_network(seed: int = 0) -> nn.Module:
    """A ResNet20 of 10 classes whose answers differ from photograph to photograph: random
    weights, but BatchNorm statistics of the photographs themselves. Each caller gets its own."""
    return copy.deepcopy(_small_network(seed))


@functools.cache
def _small_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = strzoo.create_model("resnet20", num_classes=10)
    inputs = torch.stack([reference_input(p, 32, 32) for p in crop_photographs(64, seed=99)])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean
    model.train()
    with torch.no_grad():
        model(inputs)
    return model.eval()
