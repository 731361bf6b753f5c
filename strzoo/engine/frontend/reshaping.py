"""The ONNX operators that compute nothing: they only say in what shape a value is read next."""

from __future__ import annotations

import math

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.constants import BATCH
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.rearranging import bind_moved, bind_numbers, bind_shape, shape_of
from strzoo.engine.frontend.values import Moved, Rearranged
from strzoo.engine.ir.graph import Shape

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)


def read_identity(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    bind_shape(builder, node, shape_of(builder, node.input[0]))


def read_dropout(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    training = node.input[2] if len(node.input) > 2 else ""
    if training and any(builder.integers(training)):
        raise Unsupported("in training mode")
    read_identity(builder, node)


def read_cast(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Between the kinds of floats: the engine computes in fp32 throughout."""
    if read_attributes(node).get("to") not in _FLOATS:
        raise Unsupported("to integers")
    read_identity(builder, node)


def read_shape(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    array = builder.constant(node.input[0])
    shape = [BATCH, *shape_of(builder, node.input[0])] if array is None else list(array.shape)
    part = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
    builder.constants[node.output[0]] = np.array(part, np.int64)


def read_flatten(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    shape = shape_of(builder, node.input[0])
    if read_attributes(node).get("axis", 1) % (len(shape) + 1) != 1:
        raise Unsupported("along another axis than the channels")
    bind_shape(builder, node, (math.prod(shape),))


def read_reshape(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    merged = builder.merged.get(node.input[0])
    shape = merged.index.shape if merged else shape_of(builder, node.input[0])
    given = len(node.input) > 1
    target = builder.integers(node.input[1]) if given else list(attributes.get("shape", ()))
    old = [BATCH, *shape]
    new = target
    if not attributes.get("allowzero", 0):
        if merged and 0 in target:
            raise Unsupported("of images")
        new = [old[i] if size == 0 and i < len(old) else size for i, size in enumerate(target)]
    size = math.prod(shape)
    rest = _solve(new, size, builder.batch or 1)
    known = math.prod(new[1:])
    if rest is None and new[0] == -1 and min(new[1:], default=0) > 0 and size % known == 0:
        found = merged or builder.arrangement(node.input[0])
        index = found.index.reshape(-1, *new[1:])
        builder.merged[node.output[0]] = Rearranged(found.value, index)
        return
    if rest is not None and merged:
        bind_numbers(builder, node, merged.value, merged.index.reshape(rest))
        return
    if rest is None:
        shown = ["N" if number == BATCH else number for number in target]
        raise Unsupported(f"from [N, {', '.join(map(str, shape))}] to {shown}")
    bind_shape(builder, node, rest)


def read_squeeze(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    moved = builder.moved.get(node.input[0])
    shape = moved.index.shape if moved else shape_of(builder, node.input[0])
    at = moved.at if moved else 0
    axes = {axis % (len(shape) + 1) for axis in _read_axes(builder, node)}
    sizes = (*shape[:at], 0, *shape[at:])  # the images' axis is none that can go
    if not axes or any(sizes[axis] != 1 for axis in axes):
        raise Unsupported("of axes that are not 1, or of all")
    kept = tuple(s for axis, s in enumerate(sizes) if axis != at and axis not in axes)
    if moved:
        before = at - sum(axis < at for axis in axes)
        bind_moved(builder, node, Moved(moved.value, moved.index.reshape(kept), before))
    else:
        bind_shape(builder, node, kept)


def read_unsqueeze(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    shape = shape_of(builder, node.input[0])
    given = _read_axes(builder, node)
    rank = len(shape) + 1 + len(given)
    axes = {axis % rank for axis in given}
    if 0 in axes:
        raise Unsupported("before the batch")
    sizes = iter(shape)
    made = tuple(1 if axis in axes else next(sizes) for axis in range(1, rank))
    bind_shape(builder, node, made)


def _solve(target: list[int], size: int, batch: int) -> Shape | None:
    """What `target` leaves of one image of `size` numbers, or None if it mixes images."""
    if not target or target[0] not in (BATCH, -1, batch):
        return None
    rest = target[1:]
    known = math.prod(number for number in rest if number != -1)
    if any(number < 1 and number != -1 for number in rest) or rest.count(-1) > (target[0] != -1):
        return None
    if -1 in rest:
        rest[rest.index(-1)] = size // known
    return tuple(rest) if math.prod(rest) == size else None


def _read_axes(builder: GraphBuilder, node: onnx.NodeProto) -> list[int]:
    if len(node.input) > 1 and node.input[1]:
        return builder.integers(node.input[1])
    return list(read_attributes(node).get("axes", ()))
