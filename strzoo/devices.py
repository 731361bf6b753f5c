"""Where a network runs, and what fp32 means there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from strzoo.errors import StrzooError, UsageError


def find_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; by default this process's GPU, or the CPU if there is none.

    Raises:
        UsageError: it does not exist here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        return torch.device("cuda", local % count) if count else torch.device("cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device {device!r} is not one of cpu, cuda, cuda:N") from None
    if place.type == "cuda":
        if place.index is None:
            place = torch.device("cuda", local % count if count else 0)
        if place.index is None or place.index >= count:
            raise UsageError(f"device {device} is not here: {count} GPUs are visible; use cpu")
    elif place.type != "cpu":
        raise UsageError(f"device {device!r} is not one of cpu, cuda, cuda:N")
    return place


@contextlib.contextmanager
def float32_mode(device: torch.device, precision: str) -> Iterator[None]:
    """fp32 means fp32: TF32, which torch uses for convolutions by default, only if asked for."""
    if device.type != "cuda":
        yield
        return
    allow = precision != "fp32"
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow
    try:
        # Timing events are recorded on the current device's stream.
        with (
            torch.cuda.device(device),
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=allow),
        ):
            yield
    except torch.OutOfMemoryError as error:
        raise StrzooError("out of GPU memory; use a smaller batch or model") from error
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
