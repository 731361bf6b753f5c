"""The processor that plans are made for: vector width, registers, cache sizes, name."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from strzoo.errors import UsageError

MOST_THREADS = 1024  # of a call: no processor has more cores, and systems start few more
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

_CPUINFO = Path("/proc/cpuinfo")
_CHANGING = ("processor", "cpu MHz", "apicid", "initial", "core id", "physical id", "bogomips")
# Levels of x86-64 processors (System V psABI, table 3.1): floats in a vector, vector registers, and
# what a level has beyond the one before, as Linux names it.
LEVELS = {
    "x86-64-v2": (4, 16, "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    "x86-64-v3": (8, 16, "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    "x86-64-v4": (16, 32, "avx512f avx512bw avx512cd avx512dq avx512vl"),
}


@dataclass(frozen=True)
class Hardware:
    """`lanes` fp32 values fit a vector register, of which there are `registers`; caches in bytes.

    `fixed` says whether it multiplies vectors of 16-bit fixed point and keeps the upper half,
    `quads` whether it has dot products of four numbers of 8 bits.
    `identity` tells processors apart for which code is generated differently.
    """

    lanes: int
    registers: int
    level1: int = 32 * 1024
    level2: int = 512 * 1024
    identity: str = ""
    fixed: bool = True
    quads: bool = False

    @property
    def widest_tile(self) -> int:
        """Vectors of sums that a sparse row can hold: one register is the weight's."""
        return 28 if self.registers >= 32 else 14

    @property
    def permutes(self) -> bool:
        """Whether an instruction brings the 32-bit numbers of a vector into any order, as AVX2 and
        AVX-512 have it."""
        return self.fixed and self.lanes > 4 and not self.identity.startswith(("aarch64", "arm64"))

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
    # LLVM has one intrinsic for both forms of the instruction, in vectors of 256 bits.
    dots = {16: ("avx512vnni",), 8: ("avxvnni",)}.get(lanes, ())
    quads = any(features.get(name) for name in dots)
    return Hardware(lanes, registers, level1, level2, identity, fixed, quads)


def level_hardware(cpu: str) -> Hardware:
    """Any processor of a level, with the caches of this one.

    Args:
        cpu: one of `LEVELS`, or "level" for the highest that this processor has.

    Raises:
        UsageError: there is no such level, or this processor does not reach it.
    """
    if cpu == "level":
        cpu = next((name for name in reversed(LEVELS) if not missing_flags(name)), "x86-64-v2")
    if cpu not in LEVELS:
        raise UsageError(f"cpu {cpu!r:.40} is not one of {', '.join(LEVELS)}")
    if missing := missing_flags(cpu):
        raise UsageError(f"this processor is no {cpu}: it lacks {', '.join(missing)}")
    lanes, registers, _ = LEVELS[cpu]
    level1, level2 = _cache_bytes(1, 32 * 1024), _cache_bytes(2, 512 * 1024)
    return Hardware(lanes, registers, level1, level2, _level_identity(cpu))


def level_of(hardware: Hardware) -> str:
    """The level of processors that has the vectors of `hardware` and that this one reaches.

    Raises:
        UsageError: there is none.
    """
    for cpu, (lanes, registers, _) in LEVELS.items():
        if (lanes, registers) == (hardware.lanes, hardware.registers) and not missing_flags(cpu):
            return cpu
    raise UsageError(
        "machine code in a file is for Linux on x86-64 processors with SSE4.2, AVX2 or AVX-512; "
        "leave it out"
    )


def supports(made_for: Hardware) -> bool:
    """Whether a plan made for a level of processors runs on this one."""
    for cpu, (lanes, registers, _) in LEVELS.items():
        if made_for.identity == _level_identity(cpu):
            same = (made_for.lanes, made_for.registers) == (lanes, registers)
            return same and not missing_flags(cpu)
    return False


def missing_flags(cpu: str) -> list[str]:
    """What this processor lacks of a level, as Linux names it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return ["Linux on x86-64"]
    if cpu not in LEVELS:
        return [f"a level {cpu!r:.40} that this strzoo knows"]
    flags_here = _read_flags()
    return [flag for flag in level_flags(cpu) if flag not in flags_here]


def level_flags(cpu: str) -> list[str]:
    """What a level has, as Linux names it."""
    found: list[str] = []
    for name, (_, _, flags) in LEVELS.items():
        found += flags.split()
        if name == cpu:
            break
    return found


@lru_cache(maxsize=1)
def processor_text() -> str | None:
    """What Linux says of the first processor, but for what changes; None elsewhere."""
    try:
        first = _CPUINFO.read_text().split("\n\n")[0]
    except OSError:
        return None
    lines = [line for line in first.splitlines() if not line.startswith(_CHANGING)]
    return "\n".join([platform.machine(), *lines])


def _read_flags() -> frozenset[str]:
    lines = (processor_text() or "").splitlines()
    line = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def _level_identity(cpu: str) -> str:
    return f"x86_64-linux {cpu}"


def default_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_THREADS)
    return min(os.cpu_count() or 1, MOST_THREADS)


def check_threads(threads: int | None) -> None:
    """Raise a UsageError unless a call can use so many threads; None is the usual number."""
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise UsageError(
            f"threads is {threads!r:.40}; it must be a whole number from 1 to {MOST_THREADS}"
        )


def environment_threads() -> int | None:
    """The threads that OMP_NUM_THREADS asks for, as torchrun sets it so that processes share the
    cores, but no more than a call can use; None where it is not set or is no positive number.

    A list ("4,2") gives the threads of each nesting level; the first number is the outer level's.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    count = int(first) if first.isascii() and first.isdecimal() and len(first) < 7 else 0
    return min(count, MOST_THREADS) or None


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
