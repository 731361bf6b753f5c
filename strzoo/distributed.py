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

from strzoo.errors import StrzooError, UsageError

Value = TypeVar("Value")
_PATIENCE = datetime.timedelta(days=1)  # torchrun ends the others when a process fails
# How torch words the end of another process, which reaches this one as a broken connection.
_LOST = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL")


@dataclass(frozen=True)
class Launcher:
    """What torchrun's environment variables say about this process. Counts are of processes,
    `local_*` are those of this machine; without torchrun there is one process, of rank 0."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def read_launcher() -> Launcher:
    """RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, the only place that reads them.

    Raises:
        UsageError: one of them is not a whole number, or out of range.
    """
    world = _read_count("WORLD_SIZE", 1, least=1)
    return Launcher(
        rank=_read_count("RANK", 0),
        world=world,
        local_rank=_read_count("LOCAL_RANK", 0),
        local_world=_read_count("LOCAL_WORLD_SIZE", world, least=1),
    )


def _read_count(name: str, default: int, *, least: int = 0) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UsageError(
            f"{name}={text!r} in the environment is not a whole number of at least {least}; "
            "torchrun sets it"
        )
    return int(text)


@dataclass(frozen=True)
class Group:
    """This process's number, how many there are, and how many of them run on this machine."""

    rank: int = 0
    world: int = 1
    local_world: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in every process, by rank. It is pickled on the way."""
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

    def ask(self, flag: Callable[[], bool]) -> Callable[[], bool]:
        """Whether `flag` holds in any process, to be read later: several processes exchange it
        while they work, and read what it was now; one process reads what it is then.

        Args:
            flag: says whether it holds in this process.

        Returns:
            Gives the answer, the same in every process; all of them must call it.
        """
        if self.world == 1:
            return flag
        found = torch.tensor(int(flag()))
        exchange = dist.all_reduce(found, op=dist.ReduceOp.MAX, async_op=True)

        def answer() -> bool:
            exchange.wait()
            return bool(found)

        return answer

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
        StrzooError: the processes cannot find each other, or one of them ends inside the context.
    """
    launcher = read_launcher()
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        local = launcher.local_world if launcher.world == world else world
        with _peer_errors():
            yield Group(dist.get_rank(), world, local)
        return
    if launcher.world == 1 or not dist.is_available() or "RANK" not in os.environ:
        yield Group()
        return
    # gloo also with GPUs: counts and flags are exchanged in host memory.
    nccl = device is not None and device.type == "cuda" and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise StrzooError(
            f"cannot join the {launcher.world} processes at {where}: "
            f"{' '.join(str(error).split())[:160]}"
        ) from error
    try:
        with _peer_errors():
            yield Group(dist.get_rank(), dist.get_world_size(), launcher.local_world)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    """The end of another process, which torch reports as a broken connection, as one line."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not any(sign in text for sign in _LOST):
            raise
        raise StrzooError(f"another process of the run has ended: {text[:160]}") from error
