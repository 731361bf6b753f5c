"""The ONNX operators that normalize."""

from __future__ import annotations

import numpy as np
import onnx

from strzoo.engine.frontend.arithmetic import emit_affine
from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import (
    Normalize,
)


def read_batch_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    if attributes.get("training_mode", 0) or not attributes.get("spatial", 1):
        raise Unsupported("in training mode, or not per channel")
    gain, offset, mean, variance = (
        builder.weight(node, index).astype(np.float64) for index in range(1, 5)
    )
    scale = gain / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    emit_affine(builder, node, node.input[0], scale, offset - mean * scale)


def read_layer_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Over the channels of a map whose channels are last, or over a vector."""
    attributes = read_attributes(node)
    scale, shift = builder.weight(node, 1), builder.optional_weight(node, 2)
    last = builder.channels_last.get(node.input[0])
    rank = 4 if last else len(builder.view(node.input[0]).shape) + 1
    if attributes.get("axis", -1) % rank != rank - 1 or rank not in (2, 4) or scale.ndim != 1 or (
        rank == 4 and last is None
    ):  # fmt: skip
        raise Unsupported("over another axis than the channels")
    fields = {
        "scale": scale,
        "shift": np.zeros_like(scale) if shift is None else shift,
        "epsilon": float(attributes.get("epsilon", 1e-5)),
    }
    if last is not None:
        builder.emit_last(Normalize, node, (last.value,), **fields)
    else:
        builder.emit(Normalize, node, (builder.vector_value(node.input[0]),), **fields)
