"""One engine opened in a process that does nothing else: how long it takes, how much memory.

    python benchmarks/engine_process.py sparse|onnxruntime MODEL.onnx THREADS BATCH

Prints one JSON object: seconds to open the model (imports included, strzoo's and NumPy's own
apart), and the largest resident memory in MB, first of opening and running, then of running
alone. `benchmarks/engine.py` starts it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import strzoo

RUNS = 5


def main(engine: str, path: str, threads: int, batch: int) -> None:
    images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    started = time.perf_counter()
    run = open_model(engine, path, threads, batch)
    seconds = time.perf_counter() - started
    run(images)
    whole = peak_megabytes()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    for _ in range(RUNS):
        run(images)
    print(json.dumps({"seconds": seconds, "peak": whole, "running": peak_megabytes()}))


def open_model(engine: str, path: str, threads: int, batch: int) -> Any:
    """A function of images that runs the model."""
    if engine == "sparse":
        return strzoo.compile(path, threads=threads, batch=batch)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def peak_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status: this measurement needs Linux")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
