"""An ONNX file as a runner: strzoo's own exports with their metadata, and anybody's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from strzoo.data.preprocessing import (
    CHANNELS,
    IMAGENET,
    check_preprocessing,
    fit_channels,
    fit_preprocessing,
)
from strzoo.engine.hardware import environment_threads
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.outputs import LOGITS, SOFTMAX, WITH_BACKGROUND, OutputReader
from strzoo.evaluation.runner import Runner, RunnerOptions
from strzoo.hub.graph_sources import OnnxSource
from strzoo.onnx.outputs import OutputChoice, choose_output, find_background
from strzoo.onnx.sessions import CPU_PROVIDER

if TYPE_CHECKING:
    import onnxruntime

_CUDA = "CUDAExecutionProvider"
_TYPES = {
    "tensor(float)": ("fp32", np.float32),
    "tensor(float16)": ("fp16", np.float16),
    "tensor(double)": ("fp64", np.float64),
    "tensor(uint8)": ("uint8", np.uint8),
}


def open_onnx(source: OnnxSource, options: RunnerOptions) -> Runner:
    """The model as a `Runner` whose images and logits are on the CPU.

    "cuda" as the device is short for the CUDA execution provider; the CPU's provider is always
    the last.

    Raises:
        UsageError: an option is not for ONNX files, a provider is not installed, or the input is
            not one batch of RGB images.
        StrzooError: there is no such file, or a provider cannot be started.
        IntegrityError: onnxruntime cannot load it.
    """
    import onnxruntime

    path = source.shown
    if options.format is not None or options.compile or options.precision not in ("auto", "fp32"):
        raise UsageError(
            f"{path} is an ONNX file: its format and precision are in the file, "
            "and nothing is compiled"
        )
    available = onnxruntime.get_available_providers()
    chosen = [_spell_provider(name, available) for name in options.providers]
    if not chosen and options.device is not None and str(options.device).startswith("cuda"):
        chosen = [_spell_provider(_CUDA, available)]
    outputs = read_outputs(source, options)  # which also checks the model before it is loaded
    session = source.open_session(
        threads=environment_threads() or 0,
        providers=[*chosen, *([] if CPU_PROVIDER in chosen else [CPU_PROVIDER])],
    )
    used = session.get_providers()[0]
    if chosen and used != chosen[0]:
        raise StrzooError(f"onnxruntime could not start {chosen[0]} and would use {used}")
    return _make_runner(source, session, options, *outputs)


def _make_runner(
    source: OnnxSource,
    session: onnxruntime.InferenceSession,
    options: RunnerOptions,
    answer: OutputChoice,
    reader: OutputReader,
) -> Runner:
    path = source.shown
    if len(session.get_inputs()) != 1:
        raise UsageError(f"{path} has {len(session.get_inputs())} inputs; one is expected")
    value = session.get_inputs()[0]
    if value.type not in _TYPES or len(value.shape) != 4:
        raise UsageError(
            f"{path}: its input is {value.type} {value.shape}; expected images as float, float16, "
            "double or uint8 of four dimensions"
        )
    precision, dtype = _TYPES[value.type]
    last = dtype == np.uint8 or (value.shape[3] in CHANNELS and value.shape[1] not in CHANNELS)
    height, width, channels = (value.shape[i] for i in ((1, 2, 3) if last else (2, 3, 1)))
    if isinstance(channels, int) and channels not in CHANNELS:
        raise UsageError(f"{path}: its images have {channels} channels; 1 or 3 are expected")
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise UsageError(f"{path}: its images are {height}x{width}; square ones are expected")
    batch = [size for size in value.shape if isinstance(size, int)]
    source.settings.limits.check("bytes", 16 * math.prod(batch), f"{path}: a batch of {batch}")
    metadata, stated = source.metadata, source.stated_preprocessing
    side = height if isinstance(height, int) else None
    preprocessing = options.preprocessing or fit_preprocessing(stated or IMAGENET, side)
    if isinstance(channels, int):
        preprocessing = fit_channels(preprocessing, channels)

    def forward(inputs: Tensor) -> Tensor:
        array = inputs.numpy()
        if last and not metadata.built_in:
            array = array.transpose(0, 2, 3, 1)
        array = np.ascontiguousarray(array, dtype=dtype)
        try:
            output = session.run([answer.name], {value.name: array})[0]
        except Exception as error:  # its exceptions share no base class
            reason = " ".join(str(error).split())
            if "allocate" in reason.lower() or "out of memory" in reason.lower():
                raise torch.OutOfMemoryError(reason[:200]) from error
            raise StrzooError(f"onnxruntime cannot run {path}: {reason[:200]}") from error
        return torch.from_numpy(np.asarray(output, dtype=np.float32))

    import onnxruntime

    return Runner(
        name=source.name,
        forward=forward,
        reader=reader,
        device=torch.device("cpu"),
        precision=f"{metadata.precision or precision} ({session.get_providers()[0]})",
        preprocessing=check_preprocessing(preprocessing),
        weights_sha256=source.sha256,
        card=source.card,
        channels_last=False,
        takes_bytes=metadata.built_in,
        fixed_batch=value.shape[0] if isinstance(value.shape[0], int) else None,
        class_names=source.class_names,
        states_preprocessing=stated is not None or options.preprocessing is not None,
        versions=(("onnxruntime", onnxruntime.__version__),),
    )


def read_outputs(source: OnnxSource, options: RunnerOptions) -> tuple[OutputChoice, OutputReader]:
    """The output of a graph that answers, and how its numbers are read.

    Raises:
        UsageError: no output holds classes, several could, or there is none of that name.
    """
    model, names = source.read(), source.class_names
    answer = choose_output(model, len(names) or None, options.output)
    notes = []
    if len(model.graph.output) > 1:
        notes.append(f"output {answer.name!r} of {len(model.graph.output)}: {answer.reason}")
    activation = answer.activation
    if activation is not None:
        notes.append(f"the outputs are probabilities: the graph ends in {activation}")
    metadata = source.metadata
    if metadata.model:  # an export of ours says what it ends in
        activation, notes = SOFTMAX if metadata.probabilities else LOGITS, []
    find = partial(find_background, model, WITH_BACKGROUND, names)
    return answer, OutputReader(source.name, activation, options.background, tuple(notes), find)


def _spell_provider(name: str, available: Sequence[str]) -> str:
    """A provider's full name from any spelling: `cuda`, `CUDAExecutionProvider`."""
    for known in available:
        if name.lower() in (known.lower(), known.lower().removesuffix("executionprovider")):
            return known
    raise UsageError(
        f"execution provider {name!r} is not in this onnxruntime; it has {', '.join(available)}"
    )
