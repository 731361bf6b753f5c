"""What a result was measured on. Imports nothing that is measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness import ROOT

# What Linux calls the instruction sets that decide how fast engines are; the widest vectors first.
INSTRUCTION_SETS = {
    "amx_int8": "AMX", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI",
    "avx2": "AVX2", "asimd": "NEON",
}  # fmt: skip


def name_processor() -> str:
    """As Linux calls it, and its widest vectors: one name stands for several generations."""
    information = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in information.read_text().splitlines() if information.exists() else ():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = found.get("flags", found.get("Features", "")).split()
    sets = list(dict.fromkeys(shown for flag, shown in INSTRUCTION_SETS.items() if flag in flags))
    if "AVX-512" in sets:
        sets.remove("AVX2")
    name = found.get("model name", platform.machine())
    return f"{name} ({', '.join(sets)})" if sets else name


def describe_machine() -> str:
    """Processor, cores that this process may use, system."""
    system = f"{platform.system()} {platform.release()}"
    return f"{name_processor()}, {count_cores()} cores, {system}"


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's and those of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def list_versions(packages: Iterable[str]) -> str:
    """Each package with its version, or that there is none."""
    found = find_versions(packages)
    return ", ".join(
        f"{name} {found[name]}" if name in found else f"no {name}" for name in packages
    )


def find_commit() -> str:
    """The commit of the checkout, "+" after it if files of it have changed; empty without git."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def find_load() -> float:
    """Processes that ran or waited for a core in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def find_peak(field: str = "VmHWM") -> float:
    """The largest resident memory of this process so far, in MB of 10**6 bytes. Not getrusage's,
    which a child has from its parent.

    Raises:
        RuntimeError: /proc does not say it.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {field} in {status}: memory is measured on Linux only")


def reset_peak() -> None:
    """Let `find_peak` begin again."""
    Path("/proc/self/clear_refs").write_text("5")
