"""The exponential moving average of a network's parameters and buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from strzoo.errors import UsageError


class WeightAverage:
    """average <- decay * average + (1 - decay) * network, thresholds and BatchNorm included.

    In the n-th update the decay is at most n / (n + 9), so that the random start is soon
    forgotten in a short training as well. Integer buffers (`num_batches_tracked`) are copied.

    Args:
        model: the network, not wrapped by DDP or `compile`; the average is a copy of it.
        decay: in [0, 1).

    Raises:
        UsageError: `decay` is outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"the average's decay is {decay}; it must lie in [0, 1)")
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        self._averaged.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The averaged network; evaluate and save this one. It has the keys of the original."""
        return self._averaged.module

    @property
    def updates(self) -> int:
        """How often `update` was called."""
        return int(self._averaged.n_averaged)

    def update(self, model: nn.Module) -> None:
        """Take in the network's present values; once after each optimizer step."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on averaging: `module` and `updates`."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self._averaged.n_averaged.fill_(state["updates"])

    @torch.no_grad()
    def _average(
        self, averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        count = int(updates) + 1
        weight = 1 - min(self.decay, count / (count + 9))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), weight)
            else:
                average.copy_(value)
