"""The ONNX operators that take numbers out of a value: Gather, Slice, Split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.folding import slice_bounds
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.rearranging import (
    at_first,
    bind_moved,
    bind_numbers,
    shape_of,
    take_channels,
)
from strzoo.engine.frontend.values import Moved
from strzoo.engine.ir.graph import Pick, Shape
from strzoo.errors import IntegrityError
from strzoo.settings import Limits


def read_slice(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    moved = builder.moved.get(node.input[0])
    shape = moved.index.shape if moved else shape_of(builder, node.input[0])
    at = moved.at if moved else 0
    inputs = [None if not name else builder.constant(name) for name in node.input[1:]]
    if any(name and array is None for name, array in zip(node.input[1:], inputs, strict=True)):
        raise Unsupported("from where it computes")
    sizes = (*shape[:at], 0, *shape[at:])
    parts = list(slice_bounds(read_attributes(node), [None, *inputs], builder.opset, sizes))
    if parts.pop(at) != slice(None):
        raise Unsupported("of images")
    places = [np.arange(size)[part] for size, part in zip(shape, parts, strict=True)]
    if not all(map(len, places)):
        raise Unsupported("that leaves nothing")
    if moved:
        bind_moved(builder, node, replace(moved, index=moved.index[np.ix_(*places)]))
    else:
        _take(builder, node, node.output[0], places)


def read_split(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    moved = builder.moved.get(node.input[0])
    shape = moved.index.shape if moved else shape_of(builder, node.input[0])
    axis = _own_axis(attributes.get("axis", 0), shape, moved)
    total = shape[axis]
    given = len(node.input) > 1 and node.input[1]
    sizes = builder.integers(node.input[1]) if given else list(attributes.get("split", ()))
    count = len(node.output)
    if not sizes:
        each = -(-total // count)
        sizes = [each] * (count - 1) + [total - each * (count - 1)]
    if 0 in sizes:
        raise Unsupported("that leaves nothing")
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != total:
        what = "places" if axis else "channels"
        raise IntegrityError(f"{node.name!r} splits {total} {what} into {sizes}")
    start = 0
    for name, size in zip(node.output, sizes, strict=True):
        if name and moved:
            made = onnx.helper.make_node(node.op_type, [], [name], node.name)
            part = moved.index.take(range(start, start + size), axis)
            bind_moved(builder, made, replace(moved, index=part))
        elif name:
            places = [np.arange(length) for length in shape]
            places[axis] = np.arange(start, start + size)
            _take(builder, node, name, places)
        start += size


def read_gather(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    moved = builder.moved.get(node.input[0])
    shape = moved.index.shape if moved else shape_of(builder, node.input[0])
    axis = _own_axis(read_attributes(node).get("axis", 0), shape, moved)
    indices = builder.constant(node.input[1])
    if indices is None or indices.ndim > 1:
        raise Unsupported("its indices are not a constant list")
    chosen, size = np.atleast_1d(indices).astype(np.int64), shape[axis]
    if not len(chosen):
        raise Unsupported("that leaves nothing")
    if chosen.min() < -size or chosen.max() >= size:
        raise IntegrityError(f"{node.name!r} takes {chosen.tolist()} of {size}")
    if indices.ndim == 0 or moved:
        found = moved or at_first(builder, node.input[0])
        index = found.index.take(chosen % size, axis)
        at = found.at
        if indices.ndim == 0:
            index, at = index.squeeze(axis), at - (axis < at)
        if not index.ndim:
            raise Unsupported("of a single number")
        bind_moved(builder, node, Moved(found.value, index, at))
        return
    places = [np.arange(length) for length in shape]
    places[axis] = chosen % size
    _take(builder, node, node.output[0], places)


def _own_axis(axis: int, shape: Shape, moved: Moved | None) -> int:
    """Of one image's numbers, the axis that is `axis` in ONNX."""
    at = moved.at if moved else 0
    axis %= len(shape) + 1
    if axis == at:
        raise Unsupported("of images")
    return axis - (axis > at)


def _take(
    builder: GraphBuilder, node: onnx.NodeProto, name: str, places: Sequence[np.ndarray]
) -> None:
    """Let `name` stand for the numbers at `places`, which are those along each axis."""
    given = node.input[0]
    count = math.prod(map(len, places))
    Limits.from_env().check("elements", count, f"the result of {node.name or name}")
    shape, made = shape_of(builder, given), onnx.helper.make_node(node.op_type, [given], [name])
    made.name = node.name
    whole = [np.array_equal(p, np.arange(size)) for p, size in zip(places, shape, strict=True)]
    straight = given not in builder.rearranged and given not in builder.channels_last
    if len(shape) == 3 and straight and (all(whole[1:]) or whole[0]):
        source = builder.map_value(given)
        if all(whole[1:]):
            take_channels(builder, made, name, source, places[0])
        else:
            builder.emit(Pick, made, (source,), rows=places[1], columns=places[2])
        return
    found = builder.arrangement(given)
    bind_numbers(builder, made, found.value, found.index[np.ix_(*places)])
