"""One engine in a process that does nothing else, which `benchmarks/engine.py` starts and asks.

    python benchmarks/engine_stages/process.py ENGINE MODEL.onnx THREADS BATCH OUTPUT.npy

It opens the model with the engine's default settings, runs it once, writes what came out, and
prints one JSON object: seconds to open the model (imports included, strzoo's and NumPy's own
apart), and the largest resident memory in MB, first of opening and running, then of running alone.
After that, for each number that it reads, it runs the model for `WARM` seconds, then so many times,
and prints the seconds of each of these.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from harness.machine import find_peak, reset_peak

RUNS = 5
# Seconds of runs that are not counted, at least one: while others had their turn, caches and the
# processor's clock went down, which would count for more the faster an engine is.
WARM = 0.05
SEED = 0
SIZE = 224
OPENVINO = {"openvino": "f32", "openvino-bf16": "bf16", "openvino-int8": "f32"}

Run = Callable[[], np.ndarray]


def main(engine: str, path: str, threads: int, batch: int, output: str) -> None:
    images = images_of(batch)
    if engine.startswith("sparse"):
        import strzoo  # noqa: F401
    started = time.perf_counter()
    run = open_model(engine, path, threads, images)
    seconds = time.perf_counter() - started
    np.save(output, run())
    whole = find_peak()
    reset_peak()
    for _ in range(RUNS):
        run()
    print(json.dumps({"seconds": seconds, "peak": whole, "running": find_peak()}), flush=True)
    for line in sys.stdin:
        ready = time.perf_counter() + WARM
        run()
        while time.perf_counter() < ready:
            run()
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        print(json.dumps(times), flush=True)


def images_of(batch: int) -> np.ndarray:
    """Standard normal images; the first of a larger batch are those of a smaller one."""
    shape = (batch, 3, SIZE, SIZE)
    return np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)


def open_model(engine: str, path: str, threads: int, images: np.ndarray) -> Run:
    """A function that runs the model on `images`."""
    if engine.startswith("sparse"):
        import strzoo

        precision = engine.partition("-")[2] or "fp32"
        compiled = strzoo.compile(path, threads, len(images), precision=precision)
        return lambda: compiled(images)
    if engine.startswith("onnxruntime"):
        return open_onnxruntime(path, threads, images)
    if engine.startswith("openvino"):
        return open_openvino(path, threads, images, OPENVINO[engine])
    assert engine == "deepsparse", engine
    from deepsparse import compile_model

    network = compile_model(path, batch_size=len(images), num_cores=threads)
    return lambda: network.run([images])[0]


def open_onnxruntime(path: str, threads: int, images: np.ndarray) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})[0]


def open_openvino(path: str, threads: int, images: np.ndarray, precision: str) -> Run:
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape(list(images.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda: next(iter(request.infer([images], share_inputs=True).values()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
