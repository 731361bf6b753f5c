"""An ONNX file as a runner: strzoo's own exports with their metadata, and anybody's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from strzoo.data.images import check_steps
from strzoo.engine.hardware import environment_threads
from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.evaluation.runner import IMAGENET, Runner
from strzoo.files import sha256_file
from strzoo.onnx.sessions import CPU_PROVIDER, open_session
from strzoo.zoo.registry import ModelCard, Preprocessing, get_card

if TYPE_CHECKING:
    import onnxruntime

_CUDA = "CUDAExecutionProvider"
_TYPES = {
    "tensor(float)": ("fp32", np.float32),
    "tensor(float16)": ("fp16", np.float16),
    "tensor(uint8)": ("uint8", np.uint8),
}
_SMALLEST_RESIZED = 64  # smaller inputs are filled by the image as it is


def open_onnx(
    path: Path,
    device: str | torch.device | None = None,
    providers: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
) -> Runner:
    """The file as a `Runner` whose images and logits are on the CPU.

    Args:
        path: the file.
        device: "cuda" is short for the CUDA execution provider.
        providers: execution providers in order of preference; the CPU's is always the last.
        preprocessing: instead of what the file's metadata says.

    Raises:
        UsageError: a provider is not installed, or the input is not one batch of RGB images.
        StrzooError: there is no such file, or a provider cannot be started.
        IntegrityError: onnxruntime cannot load it.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    chosen = [_spell_provider(name, available) for name in providers]
    if not chosen and device is not None and str(device).startswith("cuda"):
        chosen = [_spell_provider(_CUDA, available)]
    session = open_session(
        path,
        threads=environment_threads(),
        providers=[*chosen, *([] if CPU_PROVIDER in chosen else [CPU_PROVIDER])],
    )
    used = session.get_providers()[0]
    if chosen and used != chosen[0]:
        raise StrzooError(f"onnxruntime could not start {chosen[0]} and would use {used}")
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    return _make_runner(path, session, used, metadata, preprocessing)


def _make_runner(
    path: Path,
    session: onnxruntime.InferenceSession,
    provider: str,
    metadata: Mapping[str, str],
    preprocessing: Preprocessing | None,
) -> Runner:
    if len(session.get_inputs()) != 1:
        raise UsageError(f"{path} has {len(session.get_inputs())} inputs; one is expected")
    value = session.get_inputs()[0]
    if value.type not in _TYPES or len(value.shape) != 4:
        raise UsageError(
            f"{path}: its input is {value.type} {value.shape}; expected images as float, float16 "
            "or uint8 of four dimensions"
        )
    precision, dtype = _TYPES[value.type]
    last = dtype == np.uint8 or value.shape[3] == 3
    height, width, channels = (value.shape[i] for i in ((1, 2, 3) if last else (2, 3, 1)))
    if isinstance(channels, int) and channels != 3:
        raise UsageError(f"{path}: its images have {channels} channels; 3 are expected")
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise UsageError(f"{path}: its images are {height}x{width}; square ones are expected")
    stated, built_in = stated_steps(path, metadata)
    steps = preprocessing or fit_steps(
        stated or IMAGENET, height if isinstance(height, int) else None
    )
    probabilities = metadata.get("strzoo.output", "").startswith("softmax")

    def forward(inputs: Tensor) -> Tensor:
        array = inputs.numpy()
        if last and not built_in:
            array = array.transpose(0, 2, 3, 1)
        array = np.ascontiguousarray(array, dtype=dtype)
        try:
            output = np.asarray(session.run(None, {value.name: array})[0], dtype=np.float32)
        except Exception as error:  # its exceptions share no base class
            reason = " ".join(str(error).split())
            if "allocate" in reason.lower() or "out of memory" in reason.lower():
                raise torch.OutOfMemoryError(reason[:200]) from error
            raise StrzooError(f"onnxruntime cannot run {path}: {reason[:200]}") from error
        logits = torch.from_numpy(output.reshape(len(output), -1))
        return logits.clamp(min=1e-30).log() if probabilities else logits

    import onnxruntime

    card = find_card(metadata.get("strzoo.model", ""))
    return Runner(
        name=metadata.get("strzoo.model", path.name),
        forward=forward,
        device=torch.device("cpu"),
        precision=f"{metadata.get('strzoo.precision', precision)} ({provider})",
        steps=check_steps(steps),
        weights_sha256=sha256_file(path),
        card=card,
        channels_last=False,
        takes_bytes=built_in,
        fixed_batch=value.shape[0] if isinstance(value.shape[0], int) else None,
        class_names=class_names(metadata),
        known_steps=stated is not None or preprocessing is not None,
        versions=(("onnxruntime", onnxruntime.__version__),),
    )


def stated_steps(path: Path, metadata: Mapping[str, str]) -> tuple[Preprocessing | None, bool]:
    """What the metadata says of the preprocessing, and whether the graph normalises itself."""
    text = metadata.get("strzoo.preprocessing")
    if text is None:
        return None, False
    try:
        value: dict[str, Any] = json.loads(text)
        mean, std = (tuple(float(x) for x in value[key]) for key in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std need 3 values")
        steps = Preprocessing(
            int(value["resize"]),
            int(value["crop"]),
            str(value["interpolation"]),
            mean,
            std,
        )
        return steps, bool(value["built_in"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: its strzoo.preprocessing is not readable: {error}") from None


def fit_steps(steps: Preprocessing, size: int | None) -> Preprocessing:
    """`steps` for a network of that input size, the ratio of resize to crop kept."""
    if size is None or size == steps.crop:
        return steps
    resize = size if size < _SMALLEST_RESIZED else round(size * steps.resize / steps.crop)
    return replace(steps, resize=resize, crop=size)


def find_card(name: str) -> ModelCard | None:
    """The card of exactly that id."""
    try:
        card = get_card(name) if name else None
    except UnknownNameError:
        return None
    return card if card and card.id == name else None


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return tuple(json.loads(metadata.get("strzoo.class_names", "[]")))
    except (ValueError, TypeError):
        return ()


def _spell_provider(name: str, available: Sequence[str]) -> str:
    """A provider's full name from any spelling: `cuda`, `CUDAExecutionProvider`."""
    for known in available:
        if name.lower() in (known.lower(), known.lower().removesuffix("executionprovider")):
            return known
    raise UsageError(
        f"execution provider {name!r} is not in this onnxruntime; it has {', '.join(available)}"
    )
