"""Several processes that share one evaluation or training, as torchrun starts them."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from strzoo.errors import StrzooError

Value = TypeVar("Value")
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

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        found = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in found.tolist()]

    def lead(self, work: Callable[[], Value]) -> Value:
        """What `work` gives in the first process, in every process; its StrzooError is raised in
        every process as well."""
        if self.world == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except StrzooError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        value: Value = outcome[0]
        return value

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


@contextlib.contextmanager
def join_group(device: torch.device | None = None) -> Iterator[Group]:
    """The group of processes that this one belongs to: the one already initialised, else the one
    torchrun's environment describes, else this process alone.

    Args:
        device: where tensors that the processes exchange lie besides host memory: NCCL carries
            those of a GPU.

    Raises:
        StrzooError: the processes cannot find each other.
    """
    if dist.is_available() and dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size())
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not dist.is_available() or "RANK" not in os.environ:
        yield Group()
        return
    # gloo also with GPUs: counts and flags are exchanged in host memory.
    nccl = device is not None and device.type == "cuda" and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise StrzooError(
            f"cannot join the {world} processes at {where}: {' '.join(str(error).split())[:160]}"
        ) from error
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
