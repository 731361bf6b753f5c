"""The engines that `strzoo benchmark` times, each as a function without arguments.

Nothing heavy is imported before an engine is opened: the memory of one must not count another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.benchmarking.signal_stack import keep_signal_stack
from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.onnx.files import read_onnx
from strzoo.onnx.sessions import SATURATING, find_loadable, open_session
from strzoo.settings import Limits

# What follows a hyphen is the precision; without one it is fp32.
ENGINES = (
    "torch", "torch-compile", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16",
    "openvino-int8", "sparse", "sparse-int16", "sparse-int8",
)  # fmt: skip
ONNX_ENGINES = tuple(engine for engine in ENGINES if not engine.startswith("torch"))
INT8_ENGINES = ("onnxruntime-int8", "openvino-int8")  # which run a file in int8
_OPENVINO_PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16", "openvino-int8": "f32"}


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
    if engine.startswith("openvino") and find_spec("openvino") is None:
        raise StrzooError(f"{engine} needs OpenVINO: {install_advice('openvino')}")
    if engine.startswith("sparse") and not has_sparse_engine():
        raise StrzooError(f"the sparse engine needs llvmlite: {install_advice('engine')}")


def open_engine(
    engine: str, model: Any, shape: tuple[int, ...], threads: int, *, seed: int = 0
) -> Callable[[], np.ndarray]:
    """A function that runs `model` once on the same standard normal images of `shape`.

    Args:
        engine: one of `ENGINES`.
        model: a network for the torch engines, the path of an ONNX file for the others; of one in
            int8 (QDQ) for those of `INT8_ENGINES`.
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
    if engine.startswith("onnxruntime"):
        return _onnxruntime(str(model), images, threads)
    if engine.startswith("openvino"):
        return _openvino(str(model), images, threads, _OPENVINO_PRECISIONS[engine])
    if engine.startswith("sparse"):
        from strzoo.engine.compile import compile

        # What is timed is often a file that will be gone: the cache is not for it.
        compiled = compile(
            str(model), threads, shape[0], size=shape[1:], cache=False,
            precision=engine.partition("-")[2] or "fp32",
        )  # fmt: skip
        given = _bytes_if(compiled.inputs[0].dtype == "uint8", images)
        return lambda: np.asarray(compiled(given))
    return _torch(model, images, threads, compile=engine == "torch-compile")


def _bytes_if(pixels: bool, images: np.ndarray) -> np.ndarray:
    """What a network with built-in preprocessing takes in place of `images`, always the same."""
    if not pixels:
        return images
    return np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)


def _onnxruntime(path: str, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    read_onnx(Path(path), weights=False)  # refuses what unfolds without an end
    # Its threads would spin on after a run, into the timing of whatever runs next.
    entries = {**SATURATING, "session.force_spinning_stop": "1"}
    session = open_session(path, threads=threads, entries=entries)
    value = session.get_inputs()[0]
    feed = {value.name: _bytes_if(value.type == "tensor(uint8)", images)}
    return lambda: np.asarray(session.run(None, feed)[0])


def _openvino(
    path: str, images: np.ndarray, threads: int, precision: str
) -> Callable[[], np.ndarray]:
    import openvino

    read_onnx(Path(path), weights=False)
    given = find_loadable(Path(path))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    try:
        with keep_signal_stack():
            core = openvino.Core()
            network = core.read_model(given)
            network.reshape(list(images.shape))
            request = core.compile_model(network, "CPU", settings).create_infer_request()
            images = _bytes_if(network.inputs[0].element_type == openvino.Type.u8, images)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise StrzooError(f"OpenVINO cannot compile the network here: {reason}") from error
    return lambda: np.array(next(iter(request.infer([images], share_inputs=True).values())))


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
