"""Does an ONNX file compute what the torch network computes? Measured, not assumed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor

from strzoo.borders import is_utf8
from strzoo.data.calibration import Samples
from strzoo.errors import VerificationError
from strzoo.onnx.files import read_opset
from strzoo.onnx.fused import expand_fused
from strzoo.onnx.results import Agreement

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)


def check_file(path: Path, opset: int, output_shape: tuple[int | None, ...]) -> onnx.ModelProto:
    """Run onnx's checker and shape inference over a written file and read its opset back.

    Args:
        path: the file.
        opset: expected version of the default operator set; no other set may be used.
        output_shape: expected shape of the one output; None for a named (dynamic) axis.

    Returns:
        The model as read.

    Raises:
        VerificationError: the checker refuses the file, it refers to other files, or opset or
            output shape are not as expected.
    """
    try:
        # By its path, as what is given in memory has to be smaller than 2 GB.
        onnx.checker.check_model(str(path) if is_utf8(path) else onnx.load(path))
        model = expand_fused(onnx.load(path), shapes_only=True)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VerificationError(f"onnx's checker refuses the export: {reason}") from error
    found = read_opset(model)
    if found != {"ai.onnx": opset}:
        raise VerificationError(f"opset {opset} was asked for, the file says {found}")
    external = [t.name for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    if external:
        raise VerificationError(f"the file is not self-contained: {external[0]} lies elsewhere")
    shape = model.graph.output[0].type.tensor_type.shape
    inferred = tuple(d.dim_value if d.HasField("dim_value") else None for d in shape.dim)
    if inferred != output_shape:
        raise VerificationError(f"the output has shape {inferred}, expected {output_shape}")
    return model


def session_forward(session: onnxruntime.InferenceSession) -> Callable[[Tensor], Tensor]:
    """The first output of `session` as a function of the images.

    Raises (when called):
        VerificationError: onnxruntime fails on these images.
    """
    name = session.get_inputs()[0].name

    def forward(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(np.asarray(session.run(None, {name: images.numpy()})[0]))
        except Exception as error:  # its exceptions share no documented base class
            reason = " ".join(str(error).split())[:200]
            raise VerificationError(f"onnxruntime cannot run the network: {reason}") from error

    return forward


def compare(
    reference: Callable[[Tensor], Tensor],
    candidate: Callable[[Tensor], Tensor],
    samples: Samples,
    batch: int,
    *,
    progress: Callable[[int], Any] = lambda done: None,
) -> Agreement:
    """How well `candidate` agrees with `reference` on `samples`, run in batches of `batch`.

    A last batch that would be smaller is left out: a file can have a fixed batch.

    Raises:
        VerificationError: the shapes differ, or a value is not finite where the reference is.
    """
    largest = scale = 0.0
    same = count = 0
    for start in range(0, len(samples) - batch + 1, batch):
        images = samples.images[start : start + batch]
        with torch.inference_mode():
            expected = reference(images)
            found = candidate(images)
        if expected.shape != found.shape:
            raise VerificationError(
                f"the outputs have shape {tuple(found.shape)}, torch's {tuple(expected.shape)}"
            )
        difference = float((expected - found).abs().max())
        if not np.isfinite(difference):
            raise VerificationError("the outputs are not finite (NaN or infinity)")
        largest = max(largest, difference)
        scale = max(scale, float(expected.abs().max()))
        same += int((expected.argmax(1) == found.argmax(1)).sum())
        count += len(images)
        progress(count)
    relative = largest / scale if scale else largest
    return Agreement(samples.name, batch, count, largest, relative, 100.0 * same / max(count, 1))
