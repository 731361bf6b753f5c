"""The engines that `strzoo benchmark` times, each as a function without arguments.

Nothing heavy is imported before an engine is opened: the memory of one must not count another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.onnx.files import read_onnx
from strzoo.onnx.sessions import open_session
from strzoo.settings import Limits

ENGINES = ("torch", "torch-compile", "onnxruntime", "sparse")
ONNX_ENGINES = ("onnxruntime", "sparse")


def has_sparse_engine() -> bool:
    """Whether what the sparse engine needs is installed."""
    from strzoo.engine.requirement import has_llvmlite

    return has_llvmlite()


def available_engines() -> tuple[str, ...]:
    """The engines that a benchmark runs unless told otherwise."""
    return ("torch", "onnxruntime", *(["sparse"] if has_sparse_engine() else []))


def check_engine(engine: str) -> None:
    """Raise a UsageError for an unknown engine, a StrzooError for one that is not installed."""
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    if engine == "sparse" and not has_sparse_engine():
        raise StrzooError(f"the sparse engine needs llvmlite: {install_advice('engine')}")


def open_engine(
    engine: str, model: Any, shape: tuple[int, ...], threads: int, *, seed: int = 0
) -> Callable[[], np.ndarray]:
    """A function that runs `model` once on the same standard normal images of `shape`.

    Args:
        engine: one of `ENGINES`.
        model: a network for the torch engines, the path of an ONNX file for the others.
        shape: batch, channels, height, width.
        threads: for torch they are set for the whole process.

    Raises:
        StrzooError: torch cannot compile the network here, or the engine is not installed.
    """
    check_engine(engine)
    if min(shape) < 1:
        raise UsageError(f"images of shape {shape} cannot be made; give the input size")
    # Standard normal numbers, and what an engine makes of them.
    Limits.from_env().check("bytes", 16 * math.prod(shape), f"a batch of shape {shape}")
    images = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    if engine == "onnxruntime":
        return _onnxruntime(str(model), images, threads)
    if engine == "sparse":
        from strzoo.engine.compile import compile

        # What is timed is often a file that will be gone: the cache is not for it.
        compiled = compile(str(model), threads, shape[0], size=shape[1:], cache=False)
        return lambda: np.asarray(compiled(images))
    return _torch(model, images, threads, compile=engine == "torch-compile")


def _onnxruntime(path: str, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    read_onnx(Path(path), weights=False)  # refuses what unfolds without an end
    # Its threads would spin on after a run, into the timing of whatever runs next.
    session = open_session(path, threads=threads, entries={"session.force_spinning_stop": "1"})
    value = session.get_inputs()[0]
    if value.type == "tensor(uint8)":  # built-in preprocessing
        images = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    feed = {value.name: images}
    return lambda: np.asarray(session.run(None, feed)[0])


def _torch(
    network: Any, images: np.ndarray, threads: int, *, compile: bool
) -> Callable[[], np.ndarray]:
    import torch

    torch.set_num_threads(threads)
    tensor = torch.from_numpy(images)
    forward = torch.compile(network) if compile else network

    def run() -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = forward(tensor).numpy()
        return result

    if compile:
        try:
            run()
        except Exception as error:  # the compiler's errors, a missing C++ compiler among them
            reason = " ".join(str(error).split())[:160]
            raise StrzooError(f"torch cannot compile the network here: {reason}") from error
    return run
