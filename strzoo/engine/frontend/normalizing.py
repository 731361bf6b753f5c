"""The ONNX operators that normalize."""

from __future__ import annotations

import math

import numpy as np
import onnx

from strzoo.engine.frontend.arithmetic import emit_affine
from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder, describe_node
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.rearranging import shape_of
from strzoo.engine.ir.graph import (
    Affine,
    Bounds,
    Clamp,
    Combine,
    GlobalAveragePool,
    Linear,
    Normalize,
)
from strzoo.errors import IntegrityError
from strzoo.settings import Limits


def read_batch_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    if attributes.get("training_mode", 0) or not attributes.get("spatial", 1):
        raise Unsupported("in training mode, or not per channel")
    if node.input[0] in builder.channels_last:  # it scales along ONNX's second axis
        raise Unsupported("along another axis than the channels, which are last")
    gain, offset, mean, variance = (
        builder.weight(node, index).astype(np.float64) for index in range(1, 5)
    )
    scale = gain / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    emit_affine(builder, node, node.input[0], scale, offset - mean * scale)


def read_layer_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Over the channels of a map whose channels are last, or over a vector."""
    attributes = read_attributes(node)
    scale, shift = builder.weight(node, 1), builder.optional_weight(node, 2)
    shape = shape_of(builder, node.input[0])
    rank = len(shape) + 1
    if attributes.get("axis", -1) % rank != rank - 1:
        raise Unsupported("over another axis than the channels")
    if shift is None:
        shift = np.zeros(1, np.float32)
    # Of a single pixel, channels that are last are those of a vector.
    single = math.prod(shape[:-1]) == 1 and node.input[0] not in builder.channels_last
    last = None if single else builder.turned(node.input[0])
    fields = {
        "scale": _repeat_one(scale, shape[-1]),
        "shift": _repeat_one(shift, shape[-1]),
        "epsilon": float(attributes.get("epsilon", 1e-5)),
    }
    if last is not None:
        builder.emit_last(Normalize, node, last, **fields)
    else:
        value = builder.flatten(builder.view(node.input[0]))
        builder.bind(node, builder.emit(Normalize, node, (value,), **fields), shape)


def read_instance_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Over the pixels of each channel; or of groups of channels, where a Reshape made channels of
    groups, which is how torch's GroupNorm is exported."""
    attributes = read_attributes(node)
    scale, shift = builder.weight(node, 1), builder.weight(node, 2)
    view = builder.view(node.input[0])
    shape, groups = builder.shapes[view.value], view.shape[0]
    if len(shape) == 3 and shape[0] % groups == 0:
        source = view.value
    else:
        index = np.arange(math.prod(view.shape)).reshape(groups, 1, -1)
        source = builder.take_numbers(view.value, index, f"{node.output[0]}_map")
    each = builder.shapes[source][0] // groups
    _check_lengths(node, scale, shift, groups)
    epsilon = attributes.get("epsilon", 1e-5)
    scale, shift = np.repeat(scale, each), np.repeat(shift, each)
    value = _normalize_groups(builder, node, source, groups, epsilon, scale, shift)
    builder.bind(node, value, view.shape)


def read_group_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    scale, shift = builder.weight(node, 1), builder.weight(node, 2)
    source, groups = builder.map_value(node.input[0]), attributes["num_groups"]
    channels = builder.shapes[source][0]
    if groups < 1 or channels % groups:
        raise IntegrityError(f"{describe_node(node)!r} makes {groups} groups of {channels}")
    # Before opset 21 there is one number for each group.
    length = groups if builder.opset < 21 else channels
    scale, shift = _repeat_one(scale, length), _repeat_one(shift, length)
    _check_lengths(node, scale, shift, length)
    scale, shift = (np.repeat(v, channels // length) for v in (scale, shift))
    epsilon = attributes.get("epsilon", 1e-5)
    _normalize_groups(builder, node, source, groups, epsilon, scale, shift)


def _repeat_one(values: np.ndarray, length: int) -> np.ndarray:
    """`values`, of which there can be a single one for all channels."""
    if values.ndim != 1:
        raise Unsupported(f"by numbers of shape {values.shape}")
    return np.repeat(values, length) if len(values) == 1 else values


def _check_lengths(node: onnx.NodeProto, scale: np.ndarray, shift: np.ndarray, length: int) -> None:
    if (scale.shape, shift.shape) != ((length,), (length,)):
        raise IntegrityError(
            f"{describe_node(node)!r} scales by {scale.shape} and {shift.shape} numbers, which "
            f"must be {length} each"
        )


def _normalize_groups(
    builder: GraphBuilder,
    node: onnx.NodeProto,
    source: str,
    groups: int,
    epsilon: float,
    scale: np.ndarray,
    shift: np.ndarray,
) -> str:
    """The map `source` less the mean of each group of channels, over the root of its variance +
    epsilon, times scale, plus shift, both [channels]."""
    channels = len(scale)
    joined = groups if groups < channels else 0
    Limits.from_env().check("elements", joined * channels, f"the means of {node.name}")
    share = np.zeros((joined, channels), np.float32)
    if joined:
        share[np.arange(channels) * groups // channels, np.arange(channels)] = groups / channels

    def mean(value: str) -> str:
        """Of each channel's group, [channels]."""
        found = builder.emit(GlobalAveragePool, node, (value,), flat=True)
        for weight in (share, np.sign(share).T) if joined else ():
            bias = np.zeros(len(weight), np.float32)
            found = builder.emit(Linear, node, (found,), weight=np.array(weight), bias=bias)
        return found

    apart = builder.emit(Combine, node, (source, mean(source)), function="sub")
    square = builder.emit(Combine, node, (apart, apart), function="mul")
    small = np.full(channels, epsilon, np.float32)
    ones = np.ones(channels, np.float32)
    spread = builder.emit(Affine, node, (mean(square),), scale=ones, shift=small)
    spread = builder.emit(Clamp, node, (spread,), bounds=Bounds(0.0, 0.0, "sqrt"))
    value = builder.emit(Combine, node, (apart, spread), function="div")
    if (scale != 1).any() or shift.any():
        value = builder.emit(Affine, node, (value,), scale=scale, shift=shift)
    return value
