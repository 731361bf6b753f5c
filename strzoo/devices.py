"""Where a network runs, in which precision, and what is recorded about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator

import torch

from strzoo.distributed import read_launcher
from strzoo.errors import StrzooError, UsageError
from strzoo.version import VERSION

# Of the CPU's allocator, and of libraries that allocate on a GPU past torch.
_OUT_OF_MEMORY = ("can't allocate memory", "BLAS_STATUS_ALLOC_FAILED", "DNN_STATUS_ALLOC_FAILED")
_PIXELS_WORTH_SHARING = 1 << 15  # 128 images of 16x16
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; by default this process's GPU, or the CPU if there is none.

    Args:
        device: "cpu", "cuda", "cuda:N", or None. Without a number, the process takes the GPU of
            its local rank.

    Raises:
        UsageError: it does not exist here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = read_launcher().local_rank
    if device is None:
        return torch.device("cuda", local % count) if count else torch.device("cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise UsageError(f"device {device!r:.60} is not one of cpu, cuda, cuda:N") from None
    if place.type == "cuda":
        if place.index is None:
            place = torch.device("cuda", local % count if count else 0)
        if place.index is None or place.index >= count:
            raise UsageError(f"device {device} is not here: {count} GPUs are visible; use cpu")
    elif place.type != "cpu":
        raise UsageError(f"device {device!r} is not one of cpu, cuda, cuda:N")
    return place


def choose_precision(precision: str, device: torch.device) -> str:
    """`precision`, or what "auto" means on `device`: tf32 on a GPU, fp32 on a CPU.

    Args:
        precision: "auto", "fp32", "tf32", "bf16" or "fp16".
        device: where the network runs.

    Raises:
        UsageError: tf32 is asked of a CPU.
    """
    if precision == "auto":
        return "tf32" if device.type == "cuda" else "fp32"
    if precision == "tf32" and device.type != "cuda":
        raise UsageError("precision=tf32 is for GPUs; choose fp32 or bf16")
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes in bf16 or fp16; it does nothing for fp32 and tf32.

    Args:
        device: where the network runs.
        precision: as `choose_precision` returns it.
    """
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextlib.contextmanager
def float32_mode(device: torch.device, precision: str) -> Iterator[None]:
    """fp32 means fp32: TF32, which torch uses for convolutions by default, only if asked for.

    Args:
        device: where the network runs.
        precision: as `choose_precision` returns it.

    Raises:
        StrzooError: the GPU runs out of memory inside the context.
    """
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory: a GPU's, or on the CPU the machine's."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
    )


def release_memory(device: torch.device) -> None:
    """Give back what torch holds of a GPU's memory without using it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def choose_threads(threads: int | None, pixels: int) -> int:
    """The CPU threads for a network that computes that many pixels at once.

    Args:
        threads: as asked for; None chooses torch's own number, and one thread where there is too
            little work to share: several would only wait for each other.
        pixels: images of a batch times their height times their width.
    """
    if threads is not None:
        return threads
    if pixels < _PIXELS_WORTH_SHARING:
        return 1
    return torch.get_num_threads()


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads while the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_device(device: torch.device) -> str:
    """A device with its name, and for a CPU torch's number of threads."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"


def list_versions() -> dict[str, str]:
    """Versions of what computes a result: strzoo, Python, torch, torchvision, Pillow, numpy."""
    found = {"strzoo": VERSION, "python": platform.python_version()}
    for name in ("torch", "torchvision", "pillow", "numpy"):
        found[name] = importlib.metadata.version(name)
    return found
