"""A run's state as plain values and tensors, and back: what makes a resumed run the same run."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from strzoo.checkpoint.reading import read_document
from strzoo.errors import IntegrityError, UsageError
from strzoo.training.config import TrainConfig
from strzoo.training.parsing import build_config, compare_configs
from strzoo.training.random_state import capture_randomness, restore_randomness
from strzoo.training.results import EpochRecord

if TYPE_CHECKING:
    from strzoo.training.loop import Trainer

log = logging.getLogger(__name__)

SCHEMA = 1
# The state means nothing, or something else, if these change.
FIXED = (
    "architecture", "num_classes", "small_stem", "width", "head_bias", "method", "threshold",
    "keep_dense", "freeze", "start_from", "keep_mask", "dataset", "batch_size", "seed",
    "ema_decay", "target_sparsity", "target_start", "target_end", "epochs",
)  # fmt: skip
# These change nothing in what is computed.
_FREE = ("recipe", "about", "output", "resume", "checkpoint_every", "log_every", "tensorboard",
         "workers", "device", "data", "validation")  # fmt: skip


def pack_state(trainer: Trainer) -> dict[str, Any]:
    """`optimizer`, as the published files have it, and our own entry `training`. Every process
    takes part; those with other random numbers or sums give theirs."""
    own = {"randomness": capture_randomness(), "sums": trainer.tally.sums.cpu()}
    config = dataclasses.asdict(trainer.config)
    return {
        "optimizer": trainer.optimizer.state_dict(),
        "training": {
            "schema": SCHEMA,
            "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
            "epoch": trainer.epoch,
            "step": trainer.step,
            "seconds": trainer.seconds,
            "images": trainer.order.images,
            "processes": trainer.group.gather(own),
            "history": [record.to_dict() for record in trainer.history],
            "scaler": trainer.machine.scaler.state_dict(),
            "average": None if trainer.average is None else trainer.average.state_dict(),
            "controller": None if trainer.controller is None else trainer.controller.state_dict(),
            "mask": None if trainer.network.mask is None else trainer.network.mask.state_dict(),
        },
    }


def read_state(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that a run can go on from.

    Raises:
        StrzooError, IntegrityError: it cannot be read, or is no checkpoint of a run.
    """
    document = read_document(path)
    training = document.get("training")
    if not isinstance(training, dict) or "optimizer" not in document:
        raise IntegrityError(
            f"{path} holds no training state; to start from its weights use start_from={path}"
        )
    if training.get("schema") != SCHEMA:
        raise IntegrityError(
            f"{path} has training state of schema {training.get('schema')}; this strzoo reads "
            f"{SCHEMA}"
        )
    return document


def check_resumable(config: TrainConfig, document: Mapping[str, Any], path: Path) -> list[str]:
    """Notes on what changed since the checkpoint was written.

    Raises:
        UsageError: something changed without which its state means nothing.
    """
    before = build_config(document["training"]["config"])
    notes = []
    for name, (was, now) in compare_configs(before, config).items():
        if name in FIXED:
            raise UsageError(
                f"{path} was trained with {name}={_spell(was)}, now it is {_spell(now)}; keep it, "
                "or begin a new run in another output folder"
            )
        if name not in _FREE:
            notes.append(f"{name} was {_spell(was)} and is {_spell(now)} from here on")
    return notes


def restore_state(trainer: Trainer, document: Mapping[str, Any], path: Path) -> list[str]:
    """Put `trainer` where the checkpoint was written; returns notes worth reading.

    Raises:
        IntegrityError: the checkpoint does not fit.
        UsageError: the data set has another size.
    """
    training, notes = document["training"], []
    if training["images"] != trainer.order.images:
        raise UsageError(
            f"{path} was trained on {training['images']} images, the data has "
            f"{trainer.order.images}; give the same data, or begin a new run"
        )
    state = {key.removeprefix("module."): value for key, value in document["state_dict"].items()}
    try:
        trainer.model.load_state_dict(state)
        # Loading keeps the tensors it is given; these belong to a file.
        trainer.optimizer.load_state_dict(copy.deepcopy(document["optimizer"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path} does not fit: {' '.join(str(error).split())}") from error
    trainer.machine.scaler.load_state_dict(training["scaler"])
    for part, name in (
        (trainer.average, "average"),
        (trainer.controller, "controller"),
        (trainer.network.mask, "mask"),
    ):
        if part is not None:
            part.load_state_dict(copy.deepcopy(training[name]))
    trainer.epoch, trainer.step = training["epoch"], training["step"]
    trainer.seconds = training["seconds"]
    trainer.history = [EpochRecord.from_dict(values) for values in training["history"]]
    processes = training["processes"]
    rank, world = trainer.group.rank, trainer.group.world
    if len(processes) == world:
        sums = processes[rank]["sums"]
        restore_randomness(processes[rank]["randomness"])
    else:
        notes.append(
            f"{len(processes)} processes wrote the checkpoint, {world} go on: the same up to "
            "rounding, not to the bit"
        )
        parts = torch.stack([process["sums"] for process in processes])
        sums = parts.sum(0) if rank == 0 else torch.zeros_like(parts[0])
    trainer.tally.sums.copy_(sums)
    return notes


def _spell(value: Any) -> str:
    return "none" if value is None else str(value)
