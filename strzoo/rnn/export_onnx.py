"""export_rnn: a FastGRNN classifier as an ONNX file, checked against torch before it appears."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch

from strzoo.data.calibration import Samples
from strzoo.errors import UsageError, VerificationError
from strzoo.files import atomic_path, check_destination
from strzoo.onnx.graphs import DEFAULT_OPSET
from strzoo.onnx.metadata import ModelMetadata, set_entries
from strzoo.onnx.parity import compare, session_forward
from strzoo.onnx.sessions import open_session
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.onnx_graph import build_onnx
from strzoo.rnn.quantisation import Int8Classifier, quantise
from strzoo.rnn.report import report_rnn

PRECISIONS = ("fp32", "int8")
TOLERANCE = 1e-4  # largest absolute difference over the largest absolute logit
CHECKED, BATCH = 48, 3  # random sequences of the check, so many at once
_STEPS = 17  # of them, where any length will do


@dataclass(frozen=True)
class RNNExport:
    """What was written. `largest_difference` is between the file's logits and torch's on random
    sequences (int8: torch with the same int8 weights), `relative_difference` over the largest
    logit, `top1_agreement` the percent of the sequences that torch's fp32 network puts in the same
    class; None for a C header, which is not compiled. `kilobytes` (1,024 bytes) are those of the
    weights, `metadata` the entries of an ONNX file."""

    path: Path
    form: str
    precision: str
    bytes: int
    kilobytes: float
    largest_difference: float | None = None
    relative_difference: float | None = None
    top1_agreement: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "path": str(self.path)}


def check_precision(precision: str) -> None:
    """A UsageError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")


def measure_weights(model: SequenceClassifier | Int8Classifier) -> float:
    """Kilobytes of 1,024 bytes of all parameters, in int8 with its scales or in fp32."""
    if isinstance(model, Int8Classifier):
        return model.kilobytes
    return sum(4 * parameter.numel() for parameter in model.parameters()) / 1024


def export_rnn(
    model: SequenceClassifier,
    path: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    opset: int = DEFAULT_OPSET,
    name: str | None = None,
    force: bool = False,
) -> RNNExport:
    """Write `model` as ONNX: `sequences` [batch, steps, in] to `logits` [batch, classes].

    Learned ranks are folded. The file is run by onnxruntime and compared with torch first.

    Args:
        model: a classifier.
        path: of the file.
        precision: "fp32", or "int8" for int8 weights (`strzoo.rnn.quantise`) and float arithmetic.
        opset: version of the default operator set.
        name: of the model, in the metadata.
        force: overwrite an existing file.

    Returns:
        What was written, and how far the file's logits are from torch's.

    Raises:
        UsageError: an unknown precision or opset.
        StrzooError: the destination is refused.
        VerificationError: onnx's checker or the comparison fails; nothing is written.
    """
    check_precision(precision)
    path = check_destination(path, force=force)
    folded = model.fold().float().eval().cpu()
    chosen = quantise(folded) if precision == "int8" else folded
    made = build_onnx(chosen, opset=opset)
    metadata = ModelMetadata(
        model=name or "fastgrnn",
        architecture="fastgrnn",
        precision=precision,
        sparsity=report_rnn(folded).sparsity,
    )
    entries = metadata.to_entries()
    set_entries(made, entries)
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VerificationError(f"onnx's checker refuses the export: {reason}") from error
    content = made.SerializeToString()
    network = chosen.network if isinstance(chosen, Int8Classifier) else chosen
    forward, sequences = session_forward(open_session(content)), _random_sequences(network)
    check = compare(network, forward, sequences, BATCH)
    if not check.relative_difference <= TOLERANCE:
        raise VerificationError(
            f"the file's logits differ from torch's by {check.relative_difference:.2g} of the "
            f"largest ({TOLERANCE:g} is allowed); nothing was written"
        )
    agreement = compare(folded, forward, sequences, BATCH).top1_agreement
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(content)
    return RNNExport(
        path, "onnx", precision, len(content), measure_weights(chosen), check.largest_difference,
        check.relative_difference, agreement, entries,
    )  # fmt: skip


def _random_sequences(network: SequenceClassifier) -> Samples:
    generator = torch.Generator().manual_seed(0)
    shape = (CHECKED, network.steps or _STEPS, network.rnn.input_size)
    noise = torch.randn(shape, generator=generator)
    return Samples("random sequences", network.mean + network.std * noise)
