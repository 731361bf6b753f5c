"""The processor that plans are made for: vector width, registers, cache sizes, name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Hardware:
    """`lanes` fp32 values fit a vector register, of which there are `registers`; caches in bytes.

    `fixed` says whether it multiplies vectors of 16-bit fixed point and keeps the upper half.
    `identity` tells processors apart for which code is generated differently.
    """

    lanes: int
    registers: int
    level1: int = 32 * 1024
    level2: int = 512 * 1024
    identity: str = ""
    fixed: bool = True

    @property
    def widest_tile(self) -> int:
        """Vectors of sums that a sparse row can hold: one register is the weight's."""
        return 28 if self.registers >= 32 else 14

    def dense_rows(self, tile: int) -> int:
        """Rows that a dense kernel computes at once: their sums, one vector of input per sum of a
        row and a weight must fit the registers; 1 if no two rows do."""
        rows = (self.registers - 1 - tile) // tile
        return next((count for count in (8, 4, 2) if count <= rows), 1)


@lru_cache(maxsize=1)
def host_hardware() -> Hardware:
    """What this process runs on; llvmlite names the processor and its features."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    machine = llvm.get_process_triple()
    if features.get("avx512f"):
        lanes, registers = 16, 32
    elif features.get("avx"):
        lanes, registers = 8, 16
    elif machine.startswith(("aarch64", "arm64")):
        lanes, registers = 4, 32
    else:
        lanes, registers = 4, 16
    identity = f"{machine} {llvm.get_host_cpu_name()} {features.flatten()}"
    level1, level2 = _cache_bytes(1, 32 * 1024), _cache_bytes(2, 512 * 1024)
    needed = {16: "avx512bw", 8: "avx2", 4: "ssse3"}[lanes]
    fixed = bool(features.get(needed)) or machine.startswith(("aarch64", "arm64"))
    return Hardware(lanes, registers, level1, level2, identity, fixed)


def default_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment_threads() -> int | None:
    """The threads that OMP_NUM_THREADS asks for, as torchrun sets it so that processes share the
    cores; None where it is not set or is no positive number.

    A list ("4,2") gives the threads of each nesting level; the first number is the outer level's.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    count = int(first) if first.isascii() and first.isdecimal() and len(first) < 7 else 0
    return count or None


def _cache_bytes(level: int, otherwise: int) -> int:
    """The size of the data cache of that level; `otherwise` where the system does not say."""
    try:
        for entry in sorted(_CACHES.glob("index*")):
            kind = (entry / "type").read_text().strip()
            if int((entry / "level").read_text()) == level and kind != "Instruction":
                text = (entry / "size").read_text().strip()
                return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        pass
    return otherwise
