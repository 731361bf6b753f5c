"""What the device needs: the network as it is called, precision, loss scaling, processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from strzoo.devices import autocast, choose_precision
from strzoo.distributed import Group
from strzoo.training.config import TrainConfig
from strzoo.training.metric import Metric


@dataclass
class Accelerator:
    """How a network is called for training.

    `precision` is never "auto". `call` maps images [B, 3, H, W] to logits [B, C]: the network,
    wrapped and compiled as asked. `wrapped` exchanges gradients between processes, if there are
    several. `scaler` scales the loss of fp16. `channels_last` is the memory layout of the images.
    """

    device: torch.device
    precision: str
    call: Callable[[Tensor], Tensor]
    wrapped: DistributedDataParallel | None
    scaler: torch.amp.GradScaler
    channels_last: bool

    def accumulate(
        self,
        parts: Sequence[tuple[Tensor, Tensor]],
        loss_function: nn.Module,
        metric: Metric,
        total: float,
    ) -> list[Tensor]:
        """Add the gradients of one process's share of a batch, which comes in parts.

        Args:
            parts: images [B, 3, H, W] and labels [B].
            loss_function: the mean loss from logits and labels.
            metric: takes in logits, labels and losses.
            total: images of all parts, on average over the processes, which average gradients:
                a smaller part counts for as many images as it has.

        Returns:
            The loss of each part, detached.
        """
        losses = []
        for number, (images, labels) in enumerate(parts):
            labels = labels.to(self.device, non_blocking=True)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with self._gradients(last=number + 1 == len(parts)):
                with self.autocast():
                    logits = self.call(images)
                    loss: Tensor = loss_function(logits, labels)
                self.scaler.scale(loss / (total / len(images))).backward()
            metric.add(logits, labels, loss)
            losses.append(loss.detach())
        return losses

    def autocast(self) -> torch.autocast:
        """The context to compute logits and loss in."""
        return autocast(self.device, self.precision)

    def _gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """The context of one part of a batch: gradients are exchanged after the last one only."""
        if self.wrapped is None or last:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[None] = self.wrapped.no_sync()
        return context


def build_accelerator(
    model: nn.Module, config: TrainConfig, device: torch.device, group: Group
) -> Accelerator:
    """Wrap the network for several processes and for compilation.

    Args:
        model: on `device`.
        config: precision and compile.
        device: of this process.
        group: the processes that train together.

    Raises:
        UsageError: the device has no such precision.
    """
    precision = choose_precision(config.precision, device)
    wrapped = None
    if group.world > 1:
        wrapped = DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None
        )
    call: Any = wrapped or model
    if config.compile:
        call = torch.compile(call)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return Accelerator(device, precision, call, wrapped, scaler, config.channels_last)
