"""What changes with time and is known in advance: the learning rate and GMP's prune rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from strzoo.errors import UsageError
from strzoo.training.config_steps import SCHEDULES


@dataclass(frozen=True)
class LearningRate:
    """A learning-rate schedule after a linear warm-up; epochs may be fractional everywhere.

    Warm-up: base * (epoch + 1/2) / (warmup_epochs + 1/2), so the first step already learns and
    `base` is reached at `warmup_epochs`. Afterwards, by `kind`:

    - constant: base;
    - cosine: from base to `least` between `warmup_epochs` and `epochs`;
    - multistep: base * gamma^(number of `milestones` passed), milestones in epochs from 0;
    - exponential: base * gamma^floor((epoch - warmup_epochs) / every); with `continuous`
      base * gamma^(epoch / every), counted from epoch 0.

    After the warm-up no rate is below `least`.

    With `per_epoch` the rate stays as it is at the beginning of each epoch, and the warm-up is
    base * (epoch + 1) / warmup_epochs, so that the last epoch of it has the base rate: both as in
    the published code of STR.

    Raises:
        UsageError: a value that makes no schedule.
    """

    kind: str = "cosine"
    base: float = 0.256
    epochs: float = 100
    warmup_epochs: float = 5
    milestones: tuple[float, ...] = (30, 60, 90)
    gamma: float = 0.1
    every: float = 2.4
    per_epoch: bool = False
    continuous: bool = False
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UsageError(f"schedule {self.kind!r} is not one of {', '.join(SCHEDULES)}")
        for name in ("base", "epochs", "gamma", "every"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}; it must be positive")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs}; it must lie in 0 to {self.epochs} (epochs)"
            )
        if (
            list(self.milestones) != sorted(set(self.milestones))
            or min(self.milestones, default=1) < 0
        ):
            raise UsageError(f"milestones {self.milestones} must rise, starting at 0 or later")

    def at(self, epoch: float) -> float:
        """The learning rate after `epoch` epochs, a fraction in mid-epoch; 0 <= epoch."""
        if self.per_epoch:
            epoch = math.floor(epoch)
        if epoch < self.warmup_epochs:
            if self.per_epoch:
                return self.base * min((epoch + 1) / self.warmup_epochs, 1.0)
            return self.base * (epoch + 1 / 2) / (self.warmup_epochs + 1 / 2)
        since = epoch - self.warmup_epochs
        if self.kind == "cosine":
            span = self.epochs - self.warmup_epochs
            progress = min(since / span, 1.0) if span else 1.0
            height = self.base - self.least
            return self.least + 0.5 * height * (1 + math.cos(math.pi * progress))
        return max(self.least, self._stepped(epoch, since))

    def _stepped(self, epoch: float, since: float) -> float:
        """The rate of the schedules other than cosine, `since` epochs after the warm-up."""
        if self.kind == "multistep":
            passed = sum(epoch >= milestone for milestone in self.milestones)
            return self.base * self.gamma**passed
        if self.kind == "exponential" and self.continuous:
            return self.base * self.gamma ** (epoch / self.every)
        if self.kind == "exponential":
            return self.base * self.gamma ** _whole_periods(since, self.every)
        return self.base


def _whole_periods(since: float, every: float) -> int:
    """How many periods have passed; 7.2 / 2.4 is 3, although it rounds to 2.9999999999999996."""
    return math.floor(since / every + 1e-9)


def gmp_rate(
    final: float, epoch: float, start: float, end: float, *, per_epoch: bool = False
) -> float:
    """GMP's prune rate, final * (1 - (1 - progress)^3) between the epochs `start` and `end`.

    0 until `start`, `final` from `end` on (arXiv:1710.01878, eq. 1, from zero sparsity). With
    `per_epoch` as in the published code of STR: the rate changes at the beginning of an epoch, and
    progress is counted in end - start + 1 epochs, so that `final` is nearly reached in epoch
    `end` and kept so.

    Raises:
        UsageError: `end` is before `start`, or `final` is outside [0, 1].
    """
    if not 0 <= final <= 1:
        raise UsageError(f"prune rate {final} is outside [0, 1]; 0.9 drops 90 % of the weights")
    if not 0 <= start <= end:
        raise UsageError(f"pruning from epoch {start} to {end}: start must be 0 or more, end later")
    if per_epoch:
        epoch = min(math.floor(epoch), end)
        if epoch < start:
            return 0.0
        return final - final * (1 - (epoch - start) / (end - start + 1)) ** 3
    if epoch >= end:
        return final
    if epoch <= start:
        return 0.0
    progress = (epoch - start) / (end - start)
    return final * (1 - (1 - progress) ** 3)
