"""RNNConfig: everything that decides how a FastGRNN is trained. Frozen, passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from strzoo.errors import UsageError
from strzoo.training.schedules import LearningRate

DATASETS = ("digits", "har2", "edgeml", "google12", "google30")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("multistep", "cosine", "constant")


def _key(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class RankTarget:
    """Wanted ranks, None where the rank is left to plain STR, and the part of the training (0 to 1)
    in which the surplus columns fade.

    Raises:
        UsageError: a value out of range.
    """

    rank_w: int | None = None
    rank_u: int | None = None
    start: float = 0.05
    end: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rank_w", "rank_u"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"target {name} is {value}; it must be at least 1")
        if not 0 <= self.start < self.end <= 1:
            raise UsageError(
                f"ranks are steered from progress {self.start:g} to {self.end:g}; both lie in 0 "
                "to 1, the start first"
            )

    def allowed(self, progress: float, full: int, wanted: int) -> int:
        """The largest rank allowed at `progress`, of `full` columns."""
        part = min(1.0, max(0.0, (progress - self.start) / (self.end - self.start)))
        return min(full, math.ceil(full * (wanted / full) ** part - 1e-9))


@dataclass(frozen=True)
class RNNConfig:
    """Values of one training. `RNNConfig()` is a small network on the digits.

    Raises:
        UsageError: a value out of range; the message names the key.
    """

    about: str = _key("", "what this is, in a line")
    dataset: str = _key("digits", ", ".join(DATASETS))
    data: str | None = _key(None, "folder of the data set; digits needs none")
    features: int | None = _key(None, "values of a step; for dataset=edgeml")

    hidden_size: int = _key(32, "features of a state")
    num_layers: int = _key(1, "layers")
    bidirectional: bool = _key(False, "a second cell per layer reads from the end")
    gate: str = _key("sigmoid", "nonlinearity of the gate")
    update: str = _key("tanh", "nonlinearity of the update")
    rank_w: int | str | None = _key("learned", "of W: learned, a number, none for a full matrix")
    rank_u: int | str | None = _key("learned", "of U")
    s_init: float = _key(-10.0, "initial s of learned ranks")
    target_rank_w: int | None = _key(None, "steer the learned rank of W to this")
    target_rank_u: int | None = _key(None, "steer the learned rank of U to this")
    target_start: float = _key(0.05, "fraction of the training at which steering begins")
    target_end: float = _key(0.5, "fraction from which on the ranks are held")

    epochs: int = _key(60, "passes over the training data")
    batch_size: int = _key(100, "sequences in a step")
    optimizer: str = _key("adam", ", ".join(OPTIMIZERS))
    learning_rate: float = _key(1e-2, "at first")
    schedule: str = _key("multistep", ", ".join(SCHEDULES))
    milestones: tuple[float, ...] = _key((40.0,), "multistep: epochs at which the rate falls")
    gamma: float = _key(0.1, "multistep: factor at a milestone")
    momentum: float = _key(0.9, "of SGD")
    weight_decay: float = _key(1e-3, "of m and s of learned ranks; nothing else decays")
    clip_norm: float | None = _key(None, "largest norm of all gradients together")
    seed: int = _key(0, "of weights, order and drawn data")
    device: str | None = _key(None, "cpu, cuda or cuda:N; none: a GPU if there is one")
    output: str | None = _key(None, "folder for the files; none: runs/rnn_DATASET")

    def __post_init__(self) -> None:
        choices = {"dataset": DATASETS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name}={getattr(self, name)!r} is not one of "
                                 f"{', '.join(allowed)}")  # fmt: skip
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{one.name}={value} is not finite")
        for name in ("hidden_size", "num_layers", "epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}={getattr(self, name)} must be positive")
        for name in ("weight_decay", "momentum"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("rank_w", "rank_u"):
            value = getattr(self, name)
            if isinstance(value, str) and value != "learned":
                raise UsageError(f"{name}={value!r} is not learned, a number or none")
        if (self.dataset == "edgeml") != (self.features is not None):
            raise UsageError("dataset=edgeml needs features=N, the values of a step; others none")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UsageError(f"clip_norm={self.clip_norm} must be positive")
        _ = self.learning_rates, self.rank_target

    @property
    def learning_rates(self) -> LearningRate:
        return LearningRate(
            kind=self.schedule,
            base=self.learning_rate,
            epochs=self.epochs,
            warmup_epochs=0,
            milestones=self.milestones if self.schedule == "multistep" else (),
            gamma=self.gamma,
        )

    @property
    def rank_target(self) -> RankTarget | None:
        """None if no rank is steered."""
        if self.target_rank_w is None and self.target_rank_u is None:
            return None
        return RankTarget(
            self.target_rank_w, self.target_rank_u, self.target_start, self.target_end
        )

    @property
    def run_folder(self) -> str:
        return self.output or f"runs/rnn_{self.dataset}"
