"""A model compiled by the sparse engine as a runner."""

from __future__ import annotations

import torch

from strzoo.data.preprocessing import (
    CHANNELS,
    IMAGENET,
    check_preprocessing,
    fit_channels,
    fit_preprocessing,
)
from strzoo.engine.hardware import environment_threads
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.onnx_runner import read_outputs
from strzoo.evaluation.outputs import LOGITS, SOFTMAX, OutputReader
from strzoo.evaluation.runner import Runner, RunnerOptions
from strzoo.hub.graph_sources import OnnxSource, PlanSource
from strzoo.hub.source import Source
from strzoo.onnx.metadata import read_metadata


def open_sparse(source: Source, options: RunnerOptions) -> Runner:
    """The model, compiled, as a `Runner` on the CPU; the crop of a preprocessing that is given is
    the size compiled for.

    Raises:
        UsageError: an option is not for this engine, another device than the CPU, or images that
            are not square.
        StrzooError and its subclasses: as `strzoo.compile`.
    """
    from strzoo.engine.compile import compile

    if options.format is not None or options.compile or options.precision not in ("auto", "fp32"):
        raise UsageError("the sparse engine runs the dense form in fp32; leave out such options")
    if options.providers or (
        options.device is not None and torch.device(options.device).type != "cpu"
    ):
        raise UsageError("the sparse engine runs on the CPU; leave out --device and --provider")
    given = options.preprocessing
    answer = reader = None
    whole = source
    if isinstance(source, OnnxSource) and not source.metadata.model:
        answer, reader = read_outputs(source, options)
        source = source.with_output(answer.name) if answer.count > 1 else source
    in_memory = isinstance(source, PlanSource) and source.path is None
    compiled = compile(
        source,
        threads=None if in_memory else environment_threads(),
        size=None if given is None else given.crop,
    )
    metadata = read_metadata(compiled.metadata, source.name)
    shape = compiled.input_shape
    if len(shape) != 3 or shape[0] not in CHANNELS or shape[1] != shape[2]:
        found = "x".join(str(side or "?") for side in shape) or "something else"
        raise UsageError(
            f"{source.name} takes {found}, not images; square ones of 1 or 3 channels are expected"
        )
    channels, height, _ = shape
    stated = source.stated_preprocessing or metadata.preprocessing
    preprocessing = given or fit_preprocessing(stated or IMAGENET, height)
    preprocessing = check_preprocessing(fit_channels(preprocessing, channels))

    if reader is None:
        activation = SOFTMAX if metadata.probabilities else LOGITS if metadata.model else None
        reader = OutputReader(source.name, activation, options.background, source.notes)

    import llvmlite

    if max(compiled.output_shape[1:], default=1) > 1:
        raise StrzooError(f"{source.name} gives maps, not classes")
    is_onnx = isinstance(source, OnnxSource)
    return Runner(
        name=source.name,
        forward=compiled,
        reader=reader,
        device=torch.device("cpu"),
        precision="fp32 (sparse engine)",
        preprocessing=preprocessing,
        weights_sha256=compiled.source_sha256 if answer is None else whole.sha256,
        card=source.card,
        channels_last=False,
        class_names=source.class_names,
        states_preprocessing=given is not None
        or source.card is not None
        or (is_onnx and stated is not None),
        versions=(("llvmlite", llvmlite.__version__),),
    )
