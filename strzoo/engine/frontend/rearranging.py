"""What ONNX operators do that only move numbers: Transpose, DepthToSpace, and Reshapes between.

An array of where each number comes from is kept for what they make. A map or a vector of it
becomes one layer; a Transpose between two Reshapes, such as a channel shuffle, none.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder, describe_node
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.values import Moved, Rearranged
from strzoo.engine.ir.graph import Convolution, Shape
from strzoo.engine.ir.parts import MANY
from strzoo.engine.ir.places import in_order, pick_channels
from strzoo.errors import IntegrityError
from strzoo.settings import Limits


def read_transpose(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    merged = builder.merged.get(node.input[0])
    found = builder.moved.get(node.input[0]) or at_first(builder, node.input[0])
    rank = found.index.ndim + (merged is None)
    perm = [axis % rank for axis in read_attributes(node).get("perm", range(rank)[::-1])]
    if sorted(perm) != list(range(rank)):
        raise IntegrityError(f"{describe_node(node)!r} turns {rank} axes by {perm}")
    if merged is not None:
        if perm[0] != 0:
            raise Unsupported("of images")
        builder.merged[node.output[0]] = replace(merged, index=merged.index.transpose(perm))
        return
    order = [axis - (axis > found.at) for axis in perm if axis != found.at]
    index = found.index.transpose(order)
    bind_moved(builder, node, Moved(found.value, index, perm.index(found.at)))


def read_depth_to_space(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    found = builder.arrangement(node.input[0])
    channels, height, width = _map_shape(found)
    size, mode = attributes["blocksize"], attributes.get("mode", "DCR")
    if size < 1 or channels % (size * size) or mode not in ("DCR", "CRD"):
        raise IntegrityError(f"{describe_node(node)!r}: blocks of {size}, mode {str(mode)[:20]!r}")
    rest = channels // (size * size)
    if mode == "DCR":
        parts = found.index.reshape(size, size, rest, height, width).transpose(2, 3, 0, 4, 1)
    else:
        parts = found.index.reshape(rest, size, size, height, width).transpose(0, 3, 1, 4, 2)
    bind_numbers(builder, node, found.value, parts.reshape(rest, height * size, width * size))


def read_space_to_depth(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    found = builder.arrangement(node.input[0])
    channels, height, width = _map_shape(found)
    size = read_attributes(node)["blocksize"]
    if size < 1 or height % size or width % size:
        raise IntegrityError(f"{describe_node(node)!r}: blocks of {size} of {height} x {width}")
    shape = (channels, height // size, size, width // size, size)
    parts = found.index.reshape(shape).transpose(2, 4, 0, 1, 3)
    bind_numbers(builder, node, found.value, parts.reshape(-1, *shape[1::2]))


def read_expand(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Numbers repeated along axes of one."""
    found = builder.arrangement(node.input[0])
    wanted = builder.integers(node.input[1])
    shape = found.index.shape
    if len(wanted) > len(shape) + 1:
        raise Unsupported("by more axes")
    behind = [1] * (len(shape) + 1 - len(wanted)) + wanted
    if behind[0] not in (1, MANY, builder.batch or 1):
        raise Unsupported("of images")
    made = np.broadcast_shapes(shape, tuple(behind[1:]))
    Limits.from_env().check("elements", math.prod(made), f"the result of {describe_node(node)}")
    bind_numbers(builder, node, found.value, np.broadcast_to(found.index, made))


def shape_of(builder: GraphBuilder, name: str) -> Shape:
    """Of one image's numbers."""
    if name in builder.rearranged or name in builder.channels_last:
        return builder.arrangement(name).index.shape
    return builder.view(name).shape


def bind_shape(builder: GraphBuilder, node: onnx.NodeProto, shape: Shape) -> None:
    """Let the output of `node` stand for the numbers of its input in `shape`."""
    name = node.input[0]
    if name in builder.rearranged or name in builder.channels_last:
        found = builder.arrangement(name)
        if math.prod(shape) != found.index.size:
            raise IntegrityError(f"{describe_node(node)}: {found.index.shape} is not {shape}")
        bind_numbers(builder, node, found.value, found.index.reshape(shape))
    else:
        builder.bind(node, builder.view(name).value, shape)


def bind_numbers(
    builder: GraphBuilder, node: onnx.NodeProto, value: str, index: np.ndarray
) -> None:
    """Let the output of `node` stand for the numbers of `value` at `index` [...], counted channel
    by channel; a value is made of them when something needs it."""
    name, shape = node.output[0], builder.shapes[value]
    of_map = len(shape) == 3 and shape[1:] != (1, 1) and index.ndim > 1
    first = np.moveaxis(index, -1, 0) if of_map else index
    if of_map and len(first) == shape[0] and in_order(first, shape):
        builder.bind(node, value, first.shape)
        builder.turn_last(node)
    elif in_order(index, shape):
        builder.bind(node, value, index.shape)
    elif not index.ndim:
        raise Unsupported("of a single number")
    else:
        builder.rearranged[name] = Rearranged(value, index)


def at_first(builder: GraphBuilder, name: str) -> Moved:
    """The numbers of `name`, whose images are on the first axis, or part of it."""
    found = builder.merged.get(name) or builder.arrangement(name)
    return Moved(found.value, found.index, 0)


def bind_moved(builder: GraphBuilder, node: onnx.NodeProto, found: Moved) -> None:
    """As `bind_numbers`, wherever the images are."""
    if found.at == 0:
        bind_numbers(builder, node, found.value, found.index)
    else:
        builder.moved[node.output[0]] = found


def take_channels(
    builder: GraphBuilder, node: onnx.NodeProto, name: str, source: str, chosen: np.ndarray
) -> str:
    """Let `name` stand for the `chosen` channels of a map."""
    made = onnx.helper.make_node(node.op_type, [], [name], node.name)
    layer = pick_channels("", source, "", builder.shapes[source][0], chosen)
    fields = {"weight": layer.weight, "bias": layer.bias, "window": layer.window}
    return builder.emit(Convolution, made, (source,), **fields)


def _map_shape(found: Rearranged) -> tuple[int, int, int]:
    if found.index.ndim != 3:
        raise Unsupported(f"of {found.index.ndim + 1} axes; images have four")
    channels, height, width = found.index.shape
    return channels, height, width
