"""The exponential moving average of a network's parameters and buffers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.errors import UsageError


class WeightAverage:
    """average <- decay * average + (1 - decay) * network, thresholds and BatchNorm included.

    In the n-th update the decay is at most n / (n + 9), so that the random start is soon
    forgotten in a short training as well. Integer buffers (`num_batches_tracked`) are copied.

    Args:
        model: the network, not wrapped by DDP or `compile`; the average is a copy of it.
        decay: in [0, 1).

    Attributes:
        module: the averaged network; evaluate and save this one. Its keys are the original's.
        updates: how often `update` was called.

    Raises:
        UsageError: `decay` is outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"the average's decay is {decay}; it must lie in [0, 1)")
        self.decay = decay
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the network's present values; once after each optimizer step.

        Args:
            model: the network that was given at first.
        """
        self.updates += 1
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        copied = [pair for pair in pairs if self.updates == 1 or not pair[0].is_floating_point()]
        moved = [pair for pair in pairs if self.updates > 1 and pair[0].is_floating_point()]
        # One operation for all tensors: on a GPU one for each would be a thousand small kernels.
        if copied:
            torch._foreach_copy_([mine for mine, _ in copied], [theirs for _, theirs in copied])
        if moved:
            weight = 1 - min(self.decay, self.updates / (self.updates + 9))
            torch._foreach_lerp_(
                [mine for mine, _ in moved], [theirs for _, theirs in moved], weight
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on averaging: `module` and `updates`."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*model.parameters(), *model.buffers()]
