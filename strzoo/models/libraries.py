"""timm and torchvision as sources of networks: what they have, and what they state about it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from strzoo.data.preprocessing import IMAGENET, check_preprocessing
from strzoo.errors import UsageError
from strzoo.models.architecture import ImageSize, import_library
from strzoo.zoo.registry import Preprocessing


@dataclass(frozen=True)
class Stated:
    """What a library states about a network: the images it takes, and its classes (0: not said)."""

    input_size: ImageSize = (3, 224, 224)
    preprocessing: Preprocessing | None = None
    num_classes: int = 0


def timm_builder(name: str) -> Callable[..., Any]:
    """timm's function that makes the network of that name.

    Raises:
        UsageError: there is none; the nearest are named.
        StrzooError: timm is not installed.
    """
    timm = import_library("timm", purpose=f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    return partial(timm.create_model, name)


def torchvision_builder(name: str) -> Callable[..., Any]:
    """torchvision's function that makes the network of that name. Errors as `timm_builder`."""
    models = import_library("torchvision", purpose=f"torchvision:{name}").models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    return partial(models.get_model, name)


def _unknown(library: str, name: str, known: list[str]) -> UsageError:
    nearest = difflib.get_close_matches(name, known, n=3)
    hint = f"nearest: {', '.join(nearest)}" if nearest else f"it has {len(known)} others"
    return UsageError(f"{library} has no network {name!r}; {hint}")


@lru_cache(maxsize=64)
def stated_by(name: str) -> Stated:
    """What the library states about a network; ImageNet's usual values where it says nothing.

    Raises:
        UsageError, StrzooError: there is no such network or library.
    """
    library, _, rest = name.partition(":")
    if library == "timm":
        timm_builder(rest)
        timm = import_library("timm", purpose=name)
        configuration = timm.get_pretrained_cfg(rest)
        return _read_timm(configuration.to_dict() if configuration is not None else {})
    if library == "torchvision":
        torchvision_builder(rest)
        models = import_library("torchvision", purpose=name).models
        return _read_torchvision(models.get_model_weights(rest))
    return Stated()


def _read_timm(configuration: Mapping[str, Any]) -> Stated:
    size = tuple(configuration.get("input_size") or (3, 224, 224))
    side = size[-1]
    steps = replace(
        IMAGENET,
        resize=max(side, round(side / (configuration.get("crop_pct") or 0.875))),
        crop=side,
        interpolation=str(configuration.get("interpolation") or "bicubic"),
        mean=tuple(configuration.get("mean") or IMAGENET.mean),
        std=tuple(configuration.get("std") or IMAGENET.std),
    )
    return _stated(size, steps, configuration.get("num_classes") or 0)


def _read_torchvision(weights: Any) -> Stated:
    if not len(weights):
        return Stated()
    default = weights.DEFAULT
    transforms = default.transforms()
    steps = Preprocessing(
        int(transforms.resize_size[0]), int(transforms.crop_size[0]),
        str(transforms.interpolation.value), tuple(transforms.mean), tuple(transforms.std),
    )  # fmt: skip
    return _stated((3, steps.crop, steps.crop), steps, len(default.meta.get("categories", ())))


def _stated(size: tuple[int, ...], steps: Preprocessing, classes: int) -> Stated:
    """Preprocessing is given where ours can do it: three channels, an interpolation of PIL's."""
    channels, height, width = size
    usable: Preprocessing | None = steps
    try:
        check_preprocessing(steps)
    except UsageError:
        usable = None
    if len(steps.mean) != 3 or channels != 3:
        usable = None
    return Stated((channels, height, width), usable, classes)
