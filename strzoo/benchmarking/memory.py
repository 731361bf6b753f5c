"""Peak memory of one engine running one model, measured in a process that does nothing else.

`python -m strzoo.benchmarking.memory` is that process: it reads a pickled job that its parent, this
module, made, and prints bytes. Only what the engine needs is imported there.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

_RUNS = 3
_TIME_LIMIT = 300  # seconds; a stuck process must not stop a benchmark for ever


def peak_memory(engine: str, model: Any, shape: tuple[int, ...], threads: int) -> int | None:
    """Largest resident memory, in bytes, while `engine` runs `model` on zeros of `shape`.

    Libraries and weights are included, what only loading needs is not. None where it cannot be
    measured: no /proc/self/clear_refs (not Linux), or a network that cannot be pickled.
    """
    package = str(Path(__file__).resolve().parent.parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        job = pickle.dumps((engine, model, shape, threads))
        done = subprocess.run(
            [sys.executable, "-m", "strzoo.benchmarking.memory"],
            input=job,
            capture_output=True,
            timeout=_TIME_LIMIT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=True,
        )
        return int(done.stdout)
    except (
        pickle.PicklingError,
        AttributeError,
        TypeError,
        subprocess.SubprocessError,
        ValueError,
    ):
        return None


def _measure(job: bytes) -> int:
    engine, model, shape, threads = pickle.loads(job)  # made by peak_memory, through a pipe
    run = _runner(engine, model, shape, threads)
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    for _ in range(_RUNS):
        run()
    return peak_resident()


def peak_resident() -> int:
    """The largest resident memory of this process so far, in bytes; Linux only. The system's usage
    record would not do: it begins at that of the process which started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def _runner(engine: str, model: Any, shape: tuple[int, ...], threads: int) -> Any:
    from strzoo.benchmarking.engines import open_engine

    return open_engine(engine, model, shape, threads)


if __name__ == "__main__":
    print(_measure(sys.stdin.buffer.read()))
