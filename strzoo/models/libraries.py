"""timm and torchvision as sources of networks: what they have, and what they state about it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from strzoo.data.preprocessing import CHANNELS, IMAGENET, check_preprocessing, fit_channels
from strzoo.errors import NetworkError, OfflineError, StrzooError, UsageError, one_line
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
        return read_timm(configuration.to_dict() if configuration is not None else {})
    if library == "torchvision":
        torchvision_builder(rest)
        models = import_library("torchvision", purpose=name).models
        return _read_torchvision(models.get_model_weights(rest))
    return Stated()


def read_timm(configuration: Mapping[str, Any]) -> Stated:
    """What timm states about a network in its `pretrained_cfg`."""
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
    """Preprocessing is given where ours can do it: one or three channels, an interpolation of
    PIL's."""
    channels, height, width = size
    usable: Preprocessing | None = None
    if channels in CHANNELS:
        with contextlib.suppress(UsageError):
            usable = check_preprocessing(fit_channels(steps, channels))
    return Stated((channels, height, width), usable, classes)


def timm_weights(name: str, *, offline: bool) -> dict[str, Any]:
    """Arguments of timm's builder that ask for its pretrained weights.

    Args:
        name: of the network.
        offline: take them from the hub's cache alone.

    Raises:
        UsageError: timm has no weights for that network.
        OfflineError: they are not in the cache.
    """
    timm_builder(name)
    timm = import_library("timm", purpose=f"timm:{name}")
    stated = timm.get_pretrained_cfg(name)
    if stated is None or not stated.has_weights:
        raise UsageError(f"timm has no pretrained weights for {name}; leave out pretrained")
    if not offline:
        return {"pretrained": True}
    from huggingface_hub import try_to_load_from_cache

    files = [stated.hf_hub_filename, "model.safetensors", "pytorch_model.bin"]
    for file in files if stated.hf_hub_id else []:
        found = try_to_load_from_cache(stated.hf_hub_id, file) if file else None
        if isinstance(found, str):
            return {"pretrained": True, "pretrained_cfg_overlay": {"file": found}}
    raise OfflineError(
        f"the network is off and the weights of timm:{name} are not in the hub's cache; go online, "
        "or give start_from=FILE"
    )


def torchvision_weights(name: str, *, offline: bool) -> dict[str, Any]:
    """Arguments of torchvision's builder that ask for its pretrained weights. Errors and arguments
    as `timm_weights`."""
    torchvision_builder(name)
    weights = import_library("torchvision", purpose=f"torchvision:{name}").models
    weights = weights.get_model_weights(name)
    if not len(weights):
        raise UsageError(f"torchvision has no weights for {name}; leave out pretrained")
    file = Path(torch.hub.get_dir()) / "checkpoints" / str(weights.DEFAULT.url).rpartition("/")[2]
    if offline and not file.exists():
        raise OfflineError(
            f"the network is off and {file} is not there; go online, or give start_from=FILE"
        )
    return {"weights": "DEFAULT"}


def as_fetching_error(name: str, error: Exception) -> StrzooError | None:
    """The error of a library that could not fetch its weights, as ours; None if it is another."""
    origin = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or origin in ("huggingface_hub", "requests", "httpx", "urllib3"):
        return NetworkError(
            f"the weights of {name} cannot be fetched ({type(error).__name__}: "
            f"{one_line(str(error), 120)}); try again, or give start_from=FILE"
        )
    return None
