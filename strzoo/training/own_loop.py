"""Sparsity in a training loop of one's own: one call after each optimizer step.

    strzoo.sparsify_(model, "str")
    control = strzoo.SparsityTarget(model, 0.9, total_steps)
    ...
    optimizer.step()
    control.step()

Both classes look through DistributedDataParallel and torch.compile, count optimizer steps (not the
parts of an accumulated batch), and change parameters and buffers in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from strzoo.arguments import checked
from strzoo.errors import IntegrityError, UsageError
from strzoo.sparse.selection import magnitude_layers, str_layers
from strzoo.sparse.unwrap import unwrap
from strzoo.training.layer_state import measure_layers, total_sparsity
from strzoo.training.pruning import PruneRates, Source, resolve_rates
from strzoo.training.schedules import gmp_rate
from strzoo.training.sparsity_target import (
    ControlStep,
    SparsityController,
    TargetSparsity,
    check_progress,
)


class SparsityTarget:
    """Brings an STR network to a total sparsity; how it is spread over the layers stays learned.

    Call `step` after each optimizer step. The last one meets the target to one weight, and so does
    `settle`, which is for the moments between in which the network is evaluated or saved. Method
    and measurements: docs/target-sparsity.md.

    Args:
        model: with STR layers; wrapped and compiled as it may be.
        target: fraction of zeros among all convolution and linear weights, in (0, 1).
        total_steps: optimizer steps of the whole training.
        start, end: fractions of the training at which the rise begins and ends.
        interval: optimizer steps between two decisions; None chooses one.
        keep: the fraction of each layer's weights that stays alive at least.

    Raises:
        UsageError: no STR layers, a value out of range, or the layers that are left dense hold too
            many of the weights.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        target: float,
        total_steps: int,
        *,
        start: float = 0.1,
        end: float = 0.9,
        interval: int | None = None,
        keep: float = 0.002,
    ) -> None:
        schedule = TargetSparsity(target, start, end, interval, keep)
        self._model = unwrap(model)
        self._controller = SparsityController(self._model, schedule, total_steps)
        self.steps = 0

    @property
    def sparsity(self) -> float:
        """The fraction of zeros now; counts every weight."""
        return total_sparsity(measure_layers(self._model)) / 100

    @property
    def wanted(self) -> float:
        """The fraction of zeros that the schedule wants now."""
        return self._controller.wanted(self.steps)

    def step(self) -> ControlStep | None:
        """Count an optimizer step, and decide if this is one to decide in.

        Returns:
            The decision; None if there was none.
        """
        self.steps += 1
        beyond = self.steps > self._controller.total_steps
        if beyond and self.steps % self._controller.interval:
            return None
        return self._controller.step(self.steps)

    def settle(self) -> ControlStep:
        """Bring the sparsity to what the schedule wants now, exactly.

        Returns:
            The decision.
        """
        return self._controller.settle()

    def state_dict(self) -> dict[str, Any]:
        """Plain values to go on from, beside the network's own state."""
        return {**self._controller.state_dict(), "step": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the network's own state is loaded by the caller.

        Args:
            state: of the same target, of a training that was not longer.

        Raises:
            IntegrityError: it is no such state, or of another schedule or a longer training.
        """
        self._controller.load_state_dict(state)
        self.steps = state["step"]


class PruningSchedule:
    """Sets the prune rates of a GMP network as training goes on; those of a DNW network at once.

    GMP's rate is final * (1 - (1 - progress)^3) between `start` and `end` (arXiv:1710.01878).

    Args:
        model: with GMP or DNW layers; wrapped and compiled as it may be.
        final: the fraction of each layer's weights to drop at the end, rates by layer, a `Budget`,
            or the name or file of one.
        total_steps: optimizer steps of the whole training.
        start, end: fractions of the training between which GMP's rates rise.

    Raises:
        UsageError: no such layers, or a value out of range.
        UnknownNameError: the budget's layers are not the network's.
        StrzooError: the budget cannot be read.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        final: Source,
        total_steps: int,
        *,
        start: float = 0.2,
        end: float = 0.79,
    ) -> None:
        if total_steps < 1:
            raise UsageError(f"a training of {total_steps} steps has no schedule")
        if not 0 <= start <= end <= 1:
            raise UsageError(
                f"the rates rise from {start} to {end} of the training; both must lie in 0 to 1, "
                "the start first"
            )
        self._model = unwrap(model)
        self.rates: PruneRates = resolve_rates(self._model, final)
        self.total_steps, self.start, self.end, self.steps = total_steps, start, end, 0
        self._set_rates()

    @property
    def sparsity(self) -> float:
        """The fraction of zeros now; counts every weight."""
        return total_sparsity(measure_layers(self._model)) / 100

    def step(self) -> None:
        """Count an optimizer step and set the rates of the next one."""
        self.steps += 1
        self._set_rates()

    def settle(self) -> None:
        """Nothing: the rates are always those of the schedule. Here so that a loop can treat both
        kinds alike."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values to go on from, beside the network's own state."""
        return {"step": self.steps, "total_steps": self.total_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Args:
            state: of a training of as many steps.

        Raises:
            IntegrityError: it is no such state, or of a training of another length.
        """
        check_progress(state, ("step", "total_steps"), "pruning schedule")
        if state["total_steps"] != self.total_steps:
            raise IntegrityError(
                f"the pruning schedule was saved for {state['total_steps']} steps, this "
                f"training has {self.total_steps}"
            )
        self.steps = state["step"]
        self._set_rates()

    @torch.no_grad()
    def _set_rates(self) -> None:
        done = self.steps / self.total_steps
        for name, layer in magnitude_layers(self._model).items():
            rate = self.rates.layers[name]
            if layer.method == "gmp":
                rate = gmp_rate(rate, done, self.start, self.end)
            layer.set_prune_rate(rate)


@checked
def control_sparsity(
    model: nn.Module, target: Any, total_steps: int, **options: Any
) -> SparsityTarget | PruningSchedule:
    """The control that suits the layers of a network: a `SparsityTarget` for STR, a
    `PruningSchedule` for GMP and DNW.

    Args:
        model: with sparse layers.
        target: as the class takes it.
        total_steps: optimizer steps of the whole training.
        options: of the class.

    Raises:
        UsageError: the network has no sparse layers, or as the class.
    """
    inner = unwrap(model)
    if str_layers(inner):
        return SparsityTarget(model, target, total_steps, **options)
    if magnitude_layers(inner):
        return PruningSchedule(model, target, total_steps, **options)
    raise UsageError(f"{type(inner).__name__} has no sparse layers; strzoo.sparsify_ makes them")
