"""resolve_config: the keys that a configuration leaves to the network and the data, found out.

A run records what is found, so that its config.yaml repeats it and a resumed run compares it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from strzoo.checkpoint.record import Checkpoint
from strzoo.data.training_images import list_training_classes
from strzoo.errors import UsageError
from strzoo.models.external_names import is_external
from strzoo.models.spec import ModelSpec
from strzoo.settings import Settings, user_path
from strzoo.training.config import TrainConfig
from strzoo.training.pretrained import find_source
from strzoo.zoo.registry import Preprocessing

_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


def resolve_config(config: TrainConfig, settings: Settings | None = None) -> TrainConfig:
    """`config` with nothing left open that the network or the data decides.

    Args:
        config: architecture, model_args, num_classes and the keys about the size and preprocessing
            of images may be open, prune_start and prune_end with GMP.
        settings: where pretrained weights come from; from the environment by default.

    Returns:
        The configuration of the run.

    Raises:
        UsageError: no network is named; num_classes=0 and the data is not there to count.
        StrzooError and its subclasses: start_from cannot be had or read.
    """
    if not config.architecture and config.start_from is None:
        raise UsageError(
            "name the network: model=timm:NAME (or another architecture), or start_from=FILE"
        )
    begun: Checkpoint | None = None
    if config.start_from is not None:
        begun = find_source(config, settings)[0].checkpoint
        if not config.architecture:
            config = replace(config, architecture=begun.architecture)
        if begun.spec.record.any_options and not config.model_args:
            config = replace(config, model_args=tuple(begun.spec.options.items()))
    if config.num_classes == 0:
        config = replace(config, num_classes=_count_classes(config, begun))
    if config.method == "gmp":
        start, end = config.prune_span
        config = replace(config, prune_start=start, prune_end=end)
    stated = _stated(config, begun) if config.dataset == "folder" else None
    return config if stated is None else replace(config, **_open_keys(config, stated))


def _count_classes(config: TrainConfig, begun: Checkpoint | None) -> int:
    if config.dataset in _CLASSES:
        return _CLASSES[config.dataset]
    if config.data is not None and user_path(config.data).is_dir():
        return len(list_training_classes(config.data))
    if begun is not None:
        return begun.spec.num_classes
    missing = "" if config.data is None else f", and {config.data} is no folder"
    raise UsageError(
        f"num_classes=0 counts the classes of the data{missing}; give data=FOLDER, or num_classes=N"
    )


def _open_keys(config: TrainConfig, stated: Preprocessing) -> dict[str, Any]:
    """The keys about images that are open, as `stated`."""
    found: dict[str, Any] = {
        "image_size": stated.crop,
        "crop_pct": min(1.0, stated.crop / stated.resize),
        "interpolation": stated.interpolation,
        "mean": stated.mean,
        "std": stated.std,
    }
    return {name: value for name, value in found.items() if getattr(config, name) is None}


def _stated(config: TrainConfig, begun: Checkpoint | None) -> Preprocessing | None:
    """How the weights were trained, else what the source of the network states."""
    if begun is not None and begun.trained_on is not None and begun.trained_on.preprocessing:
        return begun.trained_on.preprocessing
    if is_external(config.architecture):
        spec = ModelSpec(config.architecture, config.num_classes, dict(config.model_args))
        return spec.preprocessing
    return None
