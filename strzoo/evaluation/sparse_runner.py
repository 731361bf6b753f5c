"""A model compiled by the sparse engine as a runner."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from strzoo.data.images import check_steps
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.onnx_runner import class_names, find_card, fit_steps, stated_steps
from strzoo.evaluation.runner import IMAGENET, Model, Runner
from strzoo.settings import Settings
from strzoo.zoo.registry import Preprocessing


def open_sparse(
    model: Model,
    *,
    device: str | torch.device | None = None,
    providers: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    settings: Settings | None = None,
) -> Runner:
    """`model`, as `strzoo.compile` takes it, as a `Runner` on the CPU.

    Args:
        preprocessing: instead of what the model states; its crop is the size compiled for.

    Raises:
        UsageError: another device than the CPU, or images that are not square RGB ones.
        StrzooError and its subclasses: as `strzoo.compile`.
    """
    from strzoo.engine.compile import compile
    from strzoo.engine.hardware import environment_threads

    if providers or (device is not None and torch.device(device).type != "cpu"):
        raise UsageError("the sparse engine runs on the CPU; leave out --device and --provider")
    compiled = compile(
        model,
        threads=environment_threads(),
        size=None if preprocessing is None else preprocessing.crop,
        settings=settings,
    )
    channels, height, width = compiled.input_shape
    name, metadata = compiled.report.model, compiled.metadata
    if channels != 3 or height != width:
        raise UsageError(
            f"{name}: its images are {channels}x{height}x{width}; square ones of 3 channels are "
            "expected"
        )
    stated, _ = stated_steps(Path(name), metadata)
    steps = preprocessing or fit_steps(stated or IMAGENET, height)
    card = find_card(metadata.get("strzoo.model", ""))
    probabilities = metadata.get("strzoo.output", "").startswith("softmax")

    def forward(inputs: Tensor) -> Tensor:
        output = compiled(inputs)
        logits = output.reshape(len(output), -1)
        return logits.clamp(min=1e-30).log() if probabilities else logits

    import llvmlite

    if len(compiled.output_shape) != 1 and max(compiled.output_shape[1:]) > 1:
        raise StrzooError(f"{name} gives maps, not classes")
    is_onnx = isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".onnx")
    return Runner(
        name=card.id if card else name,
        forward=forward,
        device=torch.device("cpu"),
        precision="fp32 (sparse engine)",
        steps=check_steps(steps),
        weights_sha256=compiled.source_sha256,
        card=card,
        channels_last=False,
        class_names=class_names(metadata),
        known_steps=preprocessing is not None
        or card is not None
        or (is_onnx and stated is not None),
        versions=(("llvmlite", llvmlite.__version__),),
    )
