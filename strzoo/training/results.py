"""What a run reports: after a step, after an epoch, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
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
    """One epoch, counted from 1. Accuracies and `sparsity` (over all convolutions and linears) in
    percent; losses per image, the training one with label smoothing; `learning_rate` and
    `prune_rate` (mean over the weights; GMP and DNW) as they were in the last step; `seconds` and
    `images_per_second` of training alone. `candidate` says that the network is as sparse as it is
    meant to end, so that it may be the best one."""

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
    """Sent once, when everything is built. `resumed` names the checkpoint; `notes` are worth
    reading."""

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
    """Sent every `log_every` steps: means over the epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    top1: float
    learning_rate: float
    images_per_second: float


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


def choose_best(history: tuple[EpochRecord, ...] | list[EpochRecord]) -> EpochRecord | None:
    """The candidate with the highest top-1, the latest of equals; None if there is none."""
    candidates = [record for record in history if record.candidate]
    return max(candidates, key=lambda record: (record.top1, record.epoch), default=None)
