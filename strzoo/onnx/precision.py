"""fp16 and int8 forms of an fp32 ONNX graph. Zeros stay zeros; so does the graph's interface."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from strzoo.errors import StrzooError, UsageError, VerificationError
from strzoo.onnx.weights import is_layer, weighted_nodes
from strzoo.redirected_output import chatter_to

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
_CALIBRATION_BATCH = 8


def check_precision(precision: str) -> None:
    """Raise a UsageError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")


def convert_precision(
    model: onnx.ModelProto, precision: str, calibration: Tensor, *, reduce_range: bool = False
) -> onnx.ModelProto:
    """`model` (fp32) in another precision. Inputs and outputs keep their types.

    fp16: weights and arithmetic in half precision. int8: static QDQ, weights symmetric int8 per
    output channel with zero point 0 (a zero stays exactly zero), activations uint8 per tensor
    with the ranges seen on `calibration`.

    Args:
        model: the graph; not changed.
        precision: one of `PRECISIONS`.
        calibration: images as the network takes them; for int8.
        reduce_range: int8 weights of 7 bits, from -64 to 64. The sums of two products then fit
            into the 16 bits that x86 processors without VNNI have for them.

    Raises:
        VerificationError: a zero weight would not stay zero.
        StrzooError: onnxruntime cannot convert the graph.
    """
    if precision == "fp32":
        return model
    try:
        with chatter_to(log):
            if precision == "fp16":
                converted = _half(model)
            else:
                converted = _quantise(model, calibration, reduce_range)
    except Exception as error:  # onnxruntime's tools raise plain exceptions of many kinds
        reason = " ".join(str(error).split())[:200]
        raise StrzooError(f"onnxruntime cannot convert the network to {precision}: {reason}") from (
            error
        )
    _check_zeros(model, converted)
    return converted


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    converted: onnx.ModelProto = convert_float_to_float16(copied, keep_io_types=True)
    OnnxModel(converted).topological_sort()  # it appends the casts of the inputs at the end
    del converted.graph.value_info[:]
    return converted


def _quantise(model: onnx.ModelProto, calibration: Tensor, reduce_range: bool) -> onnx.ModelProto:
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    with tempfile.TemporaryDirectory(prefix="strzoo-") as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            onnx.shape_inference.infer_shapes(_unshared(model)),
            str(path),
            _Reader(model.graph.input[0], calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )
        converted = onnx.load(str(path))
    used = {node.domain for node in converted.graph.node}
    kept = [o for o in converted.opset_import if o.domain in used]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    return converted


def _unshared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with weights of its own for each layer. onnxruntime rewrites weights in 8 bits, and
    fails at those that it has rewritten for another layer."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    taken: Counter[str] = Counter()
    for node in own.graph.node:
        if not is_layer(node):
            continue
        for place, name in enumerate(node.input):
            if name not in tensors:
                continue
            taken[name] += 1
            if taken[name] > 1:
                copied = own.graph.initializer.add()
                copied.CopyFrom(tensors[name])
                stem, dot, last = name.rpartition(".")  # named as `weighted_nodes` names the layer
                new = f"#{taken[name]}"
                copied.name = node.input[place] = f"{stem}{new}.{last}" if dot else last + new
    return own


class _Reader:
    """Feeds calibration images to onnxruntime, a few at a time."""

    def __init__(self, value: onnx.ValueInfoProto, images: Tensor) -> None:
        dimension = value.type.tensor_type.shape.dim[0]
        batch = dimension.dim_value if dimension.HasField("dim_value") else _CALIBRATION_BATCH
        self._name = value.name
        whole = images[: len(images) // batch * batch] if len(images) >= batch else images
        if dimension.HasField("dim_value") and len(whole) < batch:
            whole = whole.repeat(-(-batch // len(whole)), *[1] * (whole.dim() - 1))[:batch]
        self._batches = iter(torch.split(whole, batch))

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self._batches, None)
        return None if images is None else {self._name: images.numpy()}


def _check_zeros(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    converted = {node.name: node for node in weighted_nodes(after)}
    for node in weighted_nodes(before):
        other = converted.get(node.name)
        if other is None or other.weight.shape != node.weight.shape:
            raise VerificationError(f"{node.name} is missing from the converted network")
        lost = int(np.count_nonzero(other.weight[node.weight == 0]))
        if lost:
            raise VerificationError(f"{node.name}: {lost} zero weights did not stay zero")
