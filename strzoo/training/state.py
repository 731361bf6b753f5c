"""A run's state as plain values and tensors, and back: what makes a resumed run the same run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strzoo.checkpoint.reading import read_document
from strzoo.distributed import Group
from strzoo.errors import IntegrityError, UsageError
from strzoo.training.averaging import WeightAverage
from strzoo.training.builders import build_schedule
from strzoo.training.config import TrainConfig
from strzoo.training.finetuning import ZeroMask
from strzoo.training.keys import FIXED, FREE, GROWS
from strzoo.training.metric import Metric
from strzoo.training.parsing import KEYS, build_config, compare_configs
from strzoo.training.random_state import capture_randomness, restore_randomness
from strzoo.training.results import EpochRecord
from strzoo.training.sparsity_target import SparsityController

SCHEMA = 1


@dataclass
class TrainState:
    """All that the next optimizer step depends on: what is trained, and how far it is.

    `epoch` counts the epochs that are done, `step` the optimizer steps done in the present one,
    `seconds` and `metric` are of the present one, `images` is the size of the training set,
    `threads` are those of the CPU.
    """

    config: TrainConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    metric: Metric
    images: int
    threads: int
    average: WeightAverage | None = None
    controller: SparsityController | None = None
    mask: ZeroMask | None = None
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)

    def state_dict(self, group: Group) -> dict[str, Any]:
        """Everything but the network's own state dict.

        Args:
            group: its processes all call; those with other random numbers or sums give theirs.

        Returns:
            `optimizer`, as the published files have it, and our own entry `training`.
        """
        own = {"randomness": capture_randomness(), "sums": self.metric.sums.cpu()}
        config = dataclasses.asdict(self.config)
        return {
            "optimizer": self.optimizer.state_dict(),
            "training": {
                "schema": SCHEMA,
                "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
                "epoch": self.epoch,
                "step": self.step,
                "seconds": self.seconds,
                "images": self.images,
                "threads": self.threads,
                "processes": group.gather(own),
                "history": [record.to_dict() for record in self.history],
                "scaler": self.scaler.state_dict(),
                **{
                    name: None if part is None else part.state_dict()
                    for name, part in self._optional_parts().items()
                },
            },
        }

    def load_state_dict(self, document: Mapping[str, Any], group: Group, path: Path) -> list[str]:
        """Go on from where a checkpoint was written.

        Args:
            document: as `read_state` gives it, ours or the published code's.
            group: the processes that go on.
            path: where the document is from, for messages.

        Returns:
            Notes worth reading.

        Raises:
            IntegrityError: the checkpoint does not fit.
            UsageError: the data set has another size.
        """
        training = document.get("training")
        if training is not None and training["images"] != self.images:
            raise UsageError(
                f"{path} was trained on {training['images']} images, the data has {self.images}; "
                "give the same data, or begin a new run"
            )
        weights = {k.removeprefix("module."): v for k, v in document["state_dict"].items()}
        try:
            self.model.load_state_dict(weights)
            self._load_optimizer(document["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise IntegrityError(f"{path} does not fit: {' '.join(str(error).split())}") from error
        if training is None:
            self.epoch = document["epoch"]
            return []
        self.scaler.load_state_dict(training["scaler"])
        for name, part in self._optional_parts().items():
            if part is not None:
                part.load_state_dict(copy.deepcopy(training[name]))
        self.epoch, self.step = training["epoch"], training["step"]
        self.seconds = training["seconds"]
        self.history = [EpochRecord.from_dict(values) for values in training["history"]]
        notes = self._load_processes(training["processes"], group)
        threads = training.get("threads", self.threads)
        if threads != self.threads and self.metric.sums.device.type == "cpu":
            notes.append(
                f"{threads} threads wrote the checkpoint, {self.threads} go on: the same up to "
                "rounding, not to the bit"
            )
        return notes

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Take the momentum; decay and the like are those of this run's configuration."""
        options = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        # Loading keeps the tensors it is given; these belong to a file.
        self.optimizer.load_state_dict(copy.deepcopy(dict(state)))
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)

    def _optional_parts(self) -> dict[str, WeightAverage | SparsityController | ZeroMask | None]:
        return {"average": self.average, "controller": self.controller, "mask": self.mask}

    def _load_processes(self, processes: list[Any], group: Group) -> list[str]:
        """Random numbers and sums of this process; rank 0 takes all sums if the number differs."""
        if len(processes) == group.world:
            restore_randomness(processes[group.rank]["randomness"])
            self.metric.sums.copy_(processes[group.rank]["sums"])
            return []
        parts = torch.stack([process["sums"] for process in processes])
        self.metric.sums.copy_(parts.sum(0) if group.rank == 0 else torch.zeros_like(parts[0]))
        return [
            f"{len(processes)} processes wrote the checkpoint, {group.world} go on: the same up to "
            "rounding, not to the bit"
        ]


def read_state(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that a run can go on from: one of ours, or of the published code,
    which has no entry `training`.

    Raises:
        StrzooError, IntegrityError: it cannot be read, or is no checkpoint of a run.
    """
    document = read_document(path)
    training = document.get("training")
    foreign = training is None and isinstance(document.get("epoch"), int)
    if not (foreign or isinstance(training, dict)) or "optimizer" not in document:
        raise IntegrityError(
            f"{path} holds no training state; to start from its weights use start_from={path}"
        )
    if training is not None and training.get("schema") != SCHEMA:
        raise IntegrityError(
            f"{path} has training state of schema {training.get('schema')}; this strzoo reads "
            f"{SCHEMA}"
        )
    return document


def check_resumable(config: TrainConfig, document: Mapping[str, Any], path: Path) -> list[str]:
    """Notes on what changed since the checkpoint was written.

    Args:
        config: of the run that goes on.
        document: as `read_state` gives it.
        path: where it is from, for messages.

    Raises:
        UsageError: something changed without which its state means nothing.
    """
    if "training" not in document:
        return [_check_published(config, document, path)]
    before = build_config(document["training"]["config"])
    notes = []
    for name, (was, now) in compare_configs(before, config).items():
        resuming = KEYS[name].metadata["resuming"]
        if resuming == FIXED or (resuming == GROWS and now < was):
            raise UsageError(
                f"{path} was trained with {name}={_spell(was)}, now it is {_spell(now)}; keep it, "
                "or begin a new run in another output folder"
            )
        if resuming == GROWS:
            notes.append(_describe_extension(config, was, document["training"]["epoch"]))
        elif resuming != FREE:
            notes.append(f"{name} was {_spell(was)} and is {_spell(now)} from here on")
    return notes


def _check_published(config: TrainConfig, document: Mapping[str, Any], path: Path) -> str:
    """A note on what a checkpoint of the published code leaves open."""
    if not config.is_on("groups_by_name"):
        raise UsageError(
            f"{path} has the optimizer groups of the published code; go on with it by "
            "reproduce=original (or groups_by_name=true)"
        )
    if not 0 <= document["epoch"] <= config.epochs:
        raise UsageError(f"{path} has {document['epoch']} epochs, the run epochs={config.epochs}")
    best = document.get("best_acc1")
    reached = f", best top-1 {float(best):.2f} %" if isinstance(best, int | float) else ""
    return (
        f"the published code wrote {path} after {document['epoch']} epochs{reached}: it holds no "
        "history and no random numbers, so the best epoch is one of those from here on"
    )


def _describe_extension(config: TrainConfig, before: int, epoch: int) -> str:
    """What more epochs mean for the schedules, which are functions of the epoch."""
    rate = build_schedule(config).at(epoch)
    target = ""
    if config.target_sparsity is not None:
        target = (
            f"; the sparsity rises as planned for {before} epochs, and the target is held from "
            "then on"
        )
    return (
        f"epochs was {before} and is {config.epochs}: the learning rate goes on as in a run of "
        f"{config.epochs} epochs, at {rate:.4g}{target}"
    )


def _spell(value: Any) -> str:
    return "none" if value is None else str(value)
