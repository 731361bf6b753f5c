"""The ONNX operators that take pixels or channels out of a map: Resize, Slice, Split, Upsample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import Attributes, read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.folding import slice_bounds
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import Convolution, Pick, Window
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
    source = builder.map_value(node.input[0])
    shape = builder.shapes[source]
    inputs = [None if not name else builder.constant(name) for name in node.input[1:]]
    if any(name and array is None for name, array in zip(node.input[1:], inputs, strict=True)):
        raise Unsupported("from where it computes")
    parts = slice_bounds(read_attributes(node), [None, *inputs], builder.opset, (0, *shape))
    if parts[0] != slice(None):
        raise Unsupported("of images")
    indices = [np.arange(size)[part] for size, part in zip(shape, parts[1:], strict=True)]
    if not all(map(len, indices)):
        raise Unsupported("that leaves nothing")
    whole = [len(found) == size for found, size in zip(indices, shape, strict=True)]
    if all(whole[1:]):
        _take_channels(builder, node, node.output[0], source, indices[0])
    elif whole[0]:
        builder.emit(Pick, node, (source,), rows=indices[1], columns=indices[2])
    else:
        raise Unsupported("of channels and pixels at once")


def read_split(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Of channels."""
    attributes = read_attributes(node)
    if attributes.get("axis", 0) not in (1, -3):
        raise Unsupported("along another axis than the channels")
    source = builder.map_value(node.input[0])
    channels = builder.shapes[source][0]
    given = len(node.input) > 1 and node.input[1]
    sizes = builder.integers(node.input[1]) if given else list(attributes.get("split", ()))
    count = len(node.output)
    if not sizes:
        each = -(-channels // count)
        sizes = [each] * (count - 1) + [channels - each * (count - 1)]
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != channels:
        raise IntegrityError(f"{node.name!r} splits {channels} channels into {sizes}")
    start = 0
    for name, size in zip(node.output, sizes, strict=True):
        if name:
            _take_channels(builder, node, name, source, np.arange(start, start + size))
        start += size


def _take_channels(
    builder: GraphBuilder, node: onnx.NodeProto, name: str, source: str, chosen: np.ndarray
) -> None:
    """By a 1x1 convolution with a single one in each row."""
    weight = np.zeros((len(chosen), builder.shapes[source][0], 1, 1), np.float32)
    weight[np.arange(len(chosen)), chosen] = 1
    made = onnx.helper.make_node(node.op_type, [], [name], node.name)
    bias = np.zeros(len(chosen), np.float32)
    builder.emit(Convolution, made, (source,), weight=weight, bias=bias, window=Window((1, 1)))


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
