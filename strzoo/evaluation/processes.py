"""Several processes that share one evaluation, as torchrun starts them."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

_PATIENCE = datetime.timedelta(days=1)  # torchrun ends the others when a process fails


@dataclass(frozen=True)
class Group:
    """This process's number and how many there are."""

    rank: int = 0
    world: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in every process, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def join_group() -> Iterator[Group]:
    """The group of processes that this one belongs to: the one already initialised, else the one
    torchrun's environment describes, else this process alone."""
    if dist.is_available() and dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size())
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not dist.is_available() or "RANK" not in os.environ:
        yield Group()
        return
    # gloo also with GPUs: what is exchanged are counts in host memory.
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
