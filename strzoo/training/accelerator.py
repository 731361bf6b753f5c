"""What the device needs: the network as it is called, precision, loss scaling, processes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from strzoo.devices import autocast, choose_precision
from strzoo.distributed import Group
from strzoo.sparse.fused_threshold import FusedThresholds
from strzoo.training.answers import answer
from strzoo.training.config import TrainConfig


@dataclass
class Accelerator:
    """How a network is called for training.

    `precision` is never "auto". `call` maps images [B, 3, H, W] to logits [B, C]: the network,
    wrapped and compiled as asked, and its outputs read. `wrapped` exchanges gradients between
    processes, if there are several. `scaler` scales the loss of fp16.
    """

    device: torch.device
    precision: str
    call: Callable[[Tensor], Tensor]
    wrapped: DistributedDataParallel | None
    scaler: torch.amp.GradScaler

    def autocast(self) -> torch.autocast:
        """The context to compute logits and loss in."""
        return autocast(self.device, self.precision)

    def gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """The context of one part of a batch: gradients are exchanged after the last one only."""
        if self.wrapped is None or last:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[None] = self.wrapped.no_sync()
        return context


def _fuse_thresholds(model: nn.Module) -> Callable[[Tensor], Any]:
    """The network with all its soft thresholds in one kernel, if they fit together."""
    fused = FusedThresholds.build(model)
    if fused is None:
        return model

    def call(images: Tensor) -> Any:
        with fused.applied():
            return model(images)

    return call


@contextlib.contextmanager
def warnings_of_first(group: Group) -> Iterator[None]:
    """While the context lasts only the first process warns that DDP copies gradients whose strides
    differ from its buckets': 1x1 kernels have several, and every process would say the same."""
    with warnings.catch_warnings():
        if group.rank:
            warnings.filterwarnings("ignore", message="Grad strides do not match")
        yield


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
    elif device.type == "cuda" and wrapped is None:  # DDP sends each gradient as it comes
        call = _fuse_thresholds(model)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return Accelerator(device, precision, lambda images: answer(call, images), wrapped, scaler)
