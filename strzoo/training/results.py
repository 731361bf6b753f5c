"""What a run reports: after a step, after an epoch, and at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LayerState:
    """One layer at the end of an epoch: its weights, the percent of them that are zero, and the
    threshold of an STR layer (the mean of several)."""

    weights: int
    sparsity: float
    threshold: float | None = None


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, counted from 1. `step` counts the optimizer steps of the run. Accuracies and
    `sparsity` (over all convolutions and linears) in percent; losses per image, the training one
    with label smoothing. `loss`, `top1` and `top5` are of the validation images, NaN without any.
    `learning_rate` as it was in the last step; `seconds` and `images_per_second` of training
    alone. `candidate` says that the network is as sparse as it is meant to end, so that it may be
    the best one."""

    epoch: int
    step: int
    train_loss: float
    train_top1: float
    train_top5: float
    loss: float
    top1: float
    top5: float
    learning_rate: float
    sparsity: float
    target_sparsity: float | None
    seconds: float
    images_per_second: float
    candidate: bool
    layers: Mapping[str, LayerState] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "layers": {k: asdict(v) for k, v in self.layers.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EpochRecord:
        """The record that `to_dict` made."""
        layers = {name: LayerState(**layer) for name, layer in values["layers"].items()}
        return cls(**{**values, "layers": layers})

    @classmethod
    def columns(cls) -> list[str]:
        """The columns of results.csv."""
        return [one.name for one in fields(cls) if one.name != "layers"]


@dataclass(frozen=True)
class RunStarted:
    """Sent once, when everything is built. `steps` are the optimizer steps of an epoch; `epoch`
    and `step` those done already; `resumed` names the checkpoint; `notes` are worth reading."""

    folder: Path
    epochs: int
    steps: int
    data: str
    device: str
    precision: str
    processes: int
    epoch: int
    step: int
    resumed: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepDone:
    """Sent every `log_every` steps: means over the epoch so far, `top1` in percent. `step` of
    `steps` are done in this epoch, which is counted from 1. `sparsity` is the total in percent
    that a sparsity target has reached, an estimate; None without a target."""

    epoch: int
    step: int
    steps: int
    loss: float
    top1: float
    learning_rate: float
    images_per_second: float
    sparsity: float | None = None

    @property
    def position(self) -> int:
        """Optimizer steps done in the whole run."""
        return (self.epoch - 1) * self.steps + self.step


@dataclass(frozen=True)
class EpochDone:
    """Sent after each epoch. `best` says that it is the best so far."""

    record: EpochRecord
    best: bool


Event = RunStarted | StepDone | EpochDone


@dataclass(frozen=True)
class TrainResult:
    """What a run has come to. `finished` is False if SIGTERM or Ctrl-C ended it early; then
    `resume=auto` goes on. `best` is the candidate epoch of the highest top-1, the latest of
    equals, or None."""

    folder: Path
    finished: bool
    history: tuple[EpochRecord, ...]
    best: EpochRecord | None
    resumed: Path | None = None
    interrupted: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def last(self) -> EpochRecord | None:
        """The last epoch that was finished."""
        return self.history[-1] if self.history else None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it; layers are in the run folder's layers.json."""

        def row(record: EpochRecord | None) -> dict[str, Any] | None:
            if record is None:
                return None
            return {name: getattr(record, name) for name in EpochRecord.columns()}

        return {
            "schema": 1,
            "folder": str(self.folder),
            "finished": self.finished,
            "interrupted": self.interrupted,
            "resumed": None if self.resumed is None else str(self.resumed),
            "best": row(self.best),
            "last": row(self.last),
            "history": [row(record) for record in self.history],
            "files": [str(file) for file in self.files],
        }


def choose_best(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """The candidate with the highest top-1, the latest of equals; None if there is none."""

    def rank(record: EpochRecord) -> tuple[float, int]:
        return (-math.inf if math.isnan(record.top1) else record.top1, record.epoch)

    return max((record for record in history if record.candidate), key=rank, default=None)


def summarise_accuracy(history: Sequence[EpochRecord]) -> dict[str, object]:
    """The fields about accuracy, in percent, as the published checkpoints have them."""
    best, last = choose_best(history), history[-1] if history else None
    return {
        "best_acc1": best.top1 if best else 0.0,
        "best_acc5": best.top5 if best else 0.0,
        "best_train_acc1": max((record.train_top1 for record in history), default=0.0),
        "best_train_acc5": max((record.train_top5 for record in history), default=0.0),
        "curr_acc1": last.top1 if last else "Not evaluated",
        "curr_acc5": last.top5 if last else "Not evaluated",
    }
