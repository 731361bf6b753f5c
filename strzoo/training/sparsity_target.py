"""Make STR meet a total sparsity while the sparsity of each layer stays learned.

In plain STR weight decay raises all thresholds and gradients lower those of layers that need their
weights; the sparsity is where the two are equal. Here the amount of that decay is not a
hyperparameter: at every decision it is the amount that brings the *total* sparsity to what a
schedule wants. Gradients still decide about the layers. Method, limits, measurements:
docs/target-sparsity.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from strzoo.arguments import show
from strzoo.errors import IntegrityError, UsageError, one_line
from strzoo.training.threshold_projection import Projected, ThresholdProjection

# A decision reads a sample of the weights several times, which costs too much in every step of a
# long training. Between two decisions gradients move the thresholds: 50 steps is the most.
_DECISIONS = 250
_LONGEST_INTERVAL = 50
# A sample errs by some hundredths of a point. Near the target every weight is counted: otherwise
# the last decision would move the thresholds with no step left for the network to adapt.
_NEAR = 1e-3


@dataclass(frozen=True)
class TargetSparsity:
    """Where the total sparsity shall be as training goes on; progress runs from 0 to 1.

    Between `start` and `end` the logarithm of the density falls from what it is to that of
    `target`, in proportion to the learning rate that a cosine would have spent by then; after
    that the target is held. Plain STR falls like this under one constant decay.

    Args:
        target: fraction of zeros among all convolution and linear weights, layers that are left
            dense included; in (0, 1).
        start, end: progress at which the rise begins and ends; 0 <= start <= end <= 1.
        interval: optimizer steps between two decisions; None chooses one.
        keep: the fraction of a layer's weights that the controller leaves alive at least (one
            weight at least), so that no layer dies.

    Raises:
        UsageError: a value out of range.
    """

    target: float
    start: float = 0.1
    end: float = 0.9
    interval: int | None = None
    keep: float = 0.002

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise UsageError(
                f"target_sparsity {self.target} is outside (0, 1); 0.9 makes 90 % of the "
                "weights zero"
            )
        if not 0 <= self.start <= self.end <= 1:
            raise UsageError(
                f"the sparsity rises from progress {self.start} to {self.end}; both must lie in "
                "0 to 1, the start first"
            )
        if self.interval is not None and self.interval < 1:
            raise UsageError(f"interval is {self.interval}; it must be at least 1 step")
        if not 0 <= self.keep < 1:
            raise UsageError(f"keep is {self.keep}; it must lie in [0, 1)")

    def at(self, progress: float, initial: float = 0.0) -> float:
        """The sparsity wanted at `progress` (0 to 1), if it was `initial` at the start."""
        if progress >= self.end or initial >= 1:
            return self.target
        if progress <= self.start:
            return initial
        passed = (progress - self.start) / (self.end - self.start)
        spent = passed + math.sin(math.pi * passed) / math.pi  # of the integral of a cosine rate
        return 1 - (1 - initial) * ((1 - self.target) / (1 - initial)) ** spent


@dataclass(frozen=True)
class ControlStep:
    """One decision, after optimizer step `step`: sparsity wanted and reached (fractions of all
    weights; reached is an estimate except in `settle`), and the decay: every threshold parameter
    was multiplied by exp(-offset)."""

    step: int
    wanted: float
    sparsity: float
    offset: float


class SparsityController:
    """Keeps the total sparsity of an STR network on a `TargetSparsity`.

    Call `step` after each optimizer step, and `settle` at the end of each epoch, before the network
    is evaluated or saved; both change the thresholds, so a resumed run must call them at the same
    moments. Once `holding`, every settled network is at the target.

    All decisions follow from the weights, the thresholds and the number of the step, so a resumed
    run and every rank of a distributed one decide alike (rank 0's number is sent to the others).

    Args:
        model: with STR layers of any granularity; not wrapped by DDP or `compile`.
        schedule: where the sparsity shall be.
        total_steps: optimizer steps of the whole training.

    Raises:
        UsageError: no STR layers, or the target cannot be met: the layers left dense hold too
            many of the weights.
    """

    def __init__(self, model: nn.Module, schedule: TargetSparsity, total_steps: int) -> None:
        if total_steps < 1:
            raise UsageError(f"a training of {total_steps} steps cannot reach a sparsity")
        self.schedule = schedule
        self.total_steps = self._planned_steps = total_steps
        chosen = min(max(1, total_steps // _DECISIONS), _LONGEST_INTERVAL)
        self.interval = schedule.interval or chosen
        self._projection = ThresholdProjection(model, keep=schedule.keep)
        self._projection.check_reachable(schedule.target)
        self._initial: float | None = None
        self._step = 0
        self.last: ControlStep | None = None

    def wanted(self, step: int) -> float:
        """The sparsity that the schedule wants after `step` optimizer steps."""
        return self.schedule.at(step / self._planned_steps, self._initial or 0.0)

    @property
    def holding(self) -> bool:
        """Whether the rise is over, so that every settled state is at the target."""
        return self._step >= self.schedule.end * self._planned_steps

    def step(self, step: int) -> ControlStep | None:
        """Decide if this step is one to decide in; the last one is, exactly.

        Args:
            step: optimizer steps done so far, from 1. Before the first (but not when resuming)
                pass 0: thresholds that start far below the weights (s_init of -3200) are brought
                to where they begin to matter.

        Returns:
            The decision, or None if there was none.
        """
        self._step = step
        if step >= self.total_steps:
            return self.settle()
        if step % self.interval and step > 1:
            return None
        near = abs(self.schedule.target - self.wanted(step)) < _NEAR
        return self._decide(exact=near)

    def settle(self) -> ControlStep:
        """Bring the sparsity to the scheduled value exactly (to one weight, ties aside), now."""
        return self._decide(exact=True)

    def _decide(self, exact: bool) -> ControlStep:
        if self._initial is None:
            self._initial = self._projection.begin()
        wanted = self.wanted(self._step)
        found = self._projection.move_to(wanted, exact=exact)
        self.last = ControlStep(self._step, wanted, found.sparsity, found.offset)
        return self.last

    def state_dict(self) -> dict[str, Any]:
        """Everything the next decision depends on besides the network."""
        return {
            "schedule": asdict(self.schedule),
            "total_steps": self._planned_steps,
            "initial": self._initial,
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. A longer training keeps the rise that was planned,
        and holds the target for the rest.

        Raises:
            IntegrityError: it belongs to another schedule or a longer training.
        """
        check_progress(state, ("schedule", "total_steps", "initial", "step"), "sparsity target")
        mine, steps = asdict(self.schedule), state["total_steps"]
        if state.get("schedule") != mine or steps > self.total_steps:
            raise IntegrityError(
                f"the sparsity controller was saved with schedule {state.get('schedule')} of "
                f"{steps} steps, this run has {mine} of {self.total_steps}; resume with the same "
                "target, and no fewer epochs"
            )
        self._planned_steps = steps
        initial = state["initial"]
        self._initial = None if initial is None else float(initial)
        self._step = state["step"]


def check_progress(state: Any, names: Collection[str], kind: str) -> None:
    """Raise an IntegrityError unless `state` is what a control of that kind has saved.

    Args:
        state: what is loaded.
        names: of its entries.
        kind: of the control, for messages.
    """
    advice = "give what its own state_dict() returned"
    if not isinstance(state, Mapping):
        raise IntegrityError(f"the state of the {kind} is {show(state)}, no mapping; {advice}")
    if set(state) != set(names):
        entries = one_line(", ".join(map(str, state)) or "nothing", 120)
        raise IntegrityError(
            f"the state of the {kind} holds {entries}, not {', '.join(names)}; {advice}"
        )
    for name, least in (("step", 0), ("total_steps", 1)):
        if type(state[name]) is not int or state[name] < least:
            raise IntegrityError(
                f"the state of the {kind} has {name}={show(state[name])}, which is no whole number "
                f"of at least {least}; {advice}"
            )
    initial = state.get("initial")
    if initial is not None and not (isinstance(initial, int | float) and 0 <= initial <= 1):
        raise IntegrityError(
            f"the state of the {kind} has initial={show(initial)}, which is no fraction; {advice}"
        )


@torch.no_grad()
def project_sparsity(model: nn.Module, sparsity: float, *, keep: float = 0.0) -> Projected:
    """Decay all thresholds of an STR network by what makes its total sparsity this.

    For a network that has no controller, such as the moving average of one.

    Args:
        model: with STR layers.
        sparsity: fraction of zeros wanted among all convolution and linear weights.
        keep: as in `TargetSparsity`.

    Returns:
        The decay, and the fraction of zeros reached.

    Raises:
        UsageError: no STR layers, or that sparsity cannot be met.
    """
    projection = ThresholdProjection(model, keep=keep)
    projection.check_reachable(sparsity)
    return projection.move_to(sparsity, exact=True)
