"""The ONNX operators that take numbers out of a value: Gather, Resize, Slice, Split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import Attributes, read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.folding import slice_bounds
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.rearranging import bind_numbers, shape_of, take_channels
from strzoo.engine.ir.graph import Pick
from strzoo.errors import IntegrityError
from strzoo.settings import Limits


def read_resize(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """To the nearest pixel."""
    attributes = read_attributes(node)
    if attributes.get("mode", "nearest") != "nearest":
        raise Unsupported(f"mode {str(attributes['mode'])[:20]!r}")
    source = builder.map_value(node.input[0])
    _, height, width = builder.shapes[source]
    scales, sizes = _read_sizes(builder, node, attributes, (height, width))
    rows, columns = (
        _nearest(attributes, node.op_type, size, scale, wanted)
        for size, scale, wanted in zip((height, width), scales, sizes, strict=True)
    )
    Limits.from_env().check("elements", len(rows) * len(columns), f"the result of {node.name}")
    builder.emit(Pick, node, (source,), rows=rows, columns=columns)


def read_slice(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    shape = shape_of(builder, node.input[0])
    inputs = [None if not name else builder.constant(name) for name in node.input[1:]]
    if any(name and array is None for name, array in zip(node.input[1:], inputs, strict=True)):
        raise Unsupported("from where it computes")
    parts = slice_bounds(read_attributes(node), [None, *inputs], builder.opset, (0, *shape))
    if parts[0] != slice(None):
        raise Unsupported("of images")
    places = [np.arange(size)[part] for size, part in zip(shape, parts[1:], strict=True)]
    if not all(map(len, places)):
        raise Unsupported("that leaves nothing")
    _take(builder, node, node.output[0], places)


def read_split(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    shape = shape_of(builder, node.input[0])
    axis = attributes.get("axis", 0) % (len(shape) + 1)
    if axis == 0:
        raise Unsupported("of images")
    total = shape[axis - 1]
    given = len(node.input) > 1 and node.input[1]
    sizes = builder.integers(node.input[1]) if given else list(attributes.get("split", ()))
    count = len(node.output)
    if not sizes:
        each = -(-total // count)
        sizes = [each] * (count - 1) + [total - each * (count - 1)]
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != total:
        what = "channels" if axis == 1 else "places"
        raise IntegrityError(f"{node.name!r} splits {total} {what} into {sizes}")
    start = 0
    for name, size in zip(node.output, sizes, strict=True):
        if name:
            places = [np.arange(length) for length in shape]
            places[axis - 1] = np.arange(start, start + size)
            _take(builder, node, name, places)
        start += size


def read_gather(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    shape = shape_of(builder, node.input[0])
    axis = read_attributes(node).get("axis", 0) % (len(shape) + 1)
    if axis == 0:
        raise Unsupported("of images")
    indices = builder.constant(node.input[1])
    if indices is None or indices.ndim > 1:
        raise Unsupported("its indices are not a constant list")
    chosen, size = np.atleast_1d(indices).astype(np.int64), shape[axis - 1]
    if not len(chosen) or chosen.min() < -size or chosen.max() >= size:
        raise IntegrityError(f"{node.name!r} takes {chosen.tolist()} of {size}")
    if indices.ndim == 0:
        found = builder.arrangement(node.input[0])
        index = found.index.take(int(chosen[0]) % size, axis - 1)
        if not index.ndim:
            raise Unsupported("of a single number")
        bind_numbers(builder, node, found.value, index)
        return
    places = [np.arange(length) for length in shape]
    places[axis - 1] = chosen % size
    _take(builder, node, node.output[0], places)


def _take(
    builder: GraphBuilder, node: onnx.NodeProto, name: str, places: Sequence[np.ndarray]
) -> None:
    """Let `name` stand for the numbers at `places`, which are those along each axis."""
    given = node.input[0]
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


def _read_sizes(
    builder: GraphBuilder, node: onnx.NodeProto, attributes: Attributes, size: tuple[int, int]
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Scales and sizes of the result: (vertical, horizontal) each."""
    last = len(node.input) - 1
    scales = attributes.get("scales")
    if node.op_type == "Upsample" or builder.opset < 11:
        if last >= 1:
            scales = [float(s) for s in _numbers(builder, node.input[1])]
        wanted: list[float] = []
    else:
        if attributes.get("axes") or attributes.get("keep_aspect_ratio_policy", "stretch") != (
            "stretch"
        ):
            raise Unsupported("of some axes, or that keeps the aspect")
        given = last >= 2 and node.input[2]
        scales = _numbers(builder, node.input[2]) if given else []
        wanted = _numbers(builder, node.input[3]) if last >= 3 and node.input[3] else []
    if wanted:
        sizes = (int(wanted[2]), int(wanted[3]))
        return (sizes[0] / size[0], sizes[1] / size[1]), sizes
    if not scales or len(scales) != 4 or (scales[0], scales[1]) != (1, 1):
        raise Unsupported("of images or channels")
    down, across = float(scales[2]), float(scales[3])
    if not (0 < down < 1e4 and 0 < across < 1e4):
        raise Unsupported(f"by {down:g} and {across:g}")
    return (down, across), (math.floor(size[0] * down), math.floor(size[1] * across))


def _numbers(builder: GraphBuilder, name: str) -> list[float]:
    array = builder.constant(name)
    if array is None:
        raise Unsupported("to a size that it computes")
    return [float(number) for number in np.atleast_1d(array)]


def _nearest(
    attributes: Attributes, operator: str, size: int, scale: float, wanted: int
) -> np.ndarray:
    """For each position of the result, the nearest one of `size`."""
    if wanted < 1:
        raise Unsupported("that leaves nothing")
    x = np.arange(wanted, dtype=np.float32)
    default = "asymmetric" if operator == "Upsample" else "half_pixel"
    mode = attributes.get("coordinate_transformation_mode", default)
    scale32 = np.float32(scale)
    if mode == "asymmetric":
        x = x / scale32
    elif mode == "half_pixel" or (mode == "pytorch_half_pixel" and wanted > 1):
        x = (x + np.float32(0.5)) / scale32 - np.float32(0.5)
    elif mode == "align_corners" and wanted > 1:
        x = x * np.float32((size - 1) / (wanted - 1))
    else:
        raise Unsupported(f"coordinates {str(mode)[:30]!r}")
    default = "floor" if operator == "Upsample" else "round_prefer_floor"
    rounding = attributes.get("nearest_mode", default)
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - np.float32(0.5)),
        "round_prefer_ceil": lambda v: np.floor(v + np.float32(0.5)),
    }
    if rounding not in rules:
        raise Unsupported(f"nearest_mode {str(rounding)[:30]!r}")
    found: np.ndarray = rules[rounding](x).astype(np.int64).clip(0, size - 1)
    return found
