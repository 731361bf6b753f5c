"""What makes the host wait for the device, found by the profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile, record_function

# Operators that read a number from a tensor, calls that wait for a GPU, and copies from it.
WAITS = (
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
)
COPY_BACK = "Memcpy DtoH"
_RANGE = "measured block"


def find_waits(work: Callable[[], object], device: torch.device) -> Counter[str]:
    """How often `work` waits for `device`, by the name of the operator or call.

    Args:
        work: what is measured; it should have run before.
        device: where it computes.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen, record_function(_RANGE):
        work()
    events = seen.events()
    assert events is not None
    block = next(event.time_range for event in events if event.name == _RANGE)
    found: Counter[str] = Counter()
    for event in events:
        inside = block.start <= event.time_range.start <= block.end
        if (event.name in WAITS and inside) or event.name.startswith(COPY_BACK):
            found[event.name] += 1
    return found
