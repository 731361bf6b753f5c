"""Resize and Upsample: to the nearest pixel, or as weighted sums of two or four along each axis.

The rules are those of the ONNX operator specification; coordinates are rounded to fp32 in the order
in which onnxruntime computes them, because the nearest pixel may hang on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import Attributes, read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import Pick, Resample
from strzoo.engine.ir.parts import MANY
from strzoo.settings import Limits

_ONE, _HALF = np.float32(1), np.float32(0.5)


def read_resize(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear", "cubic"):
        raise Unsupported(f"mode {str(mode)[:20]!r}")
    if mode != "nearest" and attributes.get("antialias", 0):
        raise Unsupported("with antialiasing")
    source = builder.map_value(node.input[0])
    channels, height, width = builder.shapes[source]
    scales, sizes = _read_sizes(builder, node, attributes, (channels, height, width))
    if min(sizes) < 1:
        raise Unsupported("that leaves nothing")
    Limits.from_env().check("elements", math.prod(sizes), f"the result of {node.name}")
    at = [
        _find_coordinates(attributes, node.op_type, builder.opset, size, scale, wanted)
        for size, scale, wanted in zip((height, width), scales, sizes, strict=True)
    ]
    if sizes == (height, width):  # onnxruntime copies, whatever the scales are
        builder.emit(Pick, node, (source,), rows=np.arange(height), columns=np.arange(width))
        return
    if mode == "nearest":
        rows, columns = (
            _take_nearest(attributes, builder.opset, x, size, scale)
            for x, size, scale in zip(at, (height, width), scales, strict=True)
        )
        builder.emit(Pick, node, (source,), rows=rows, columns=columns)
        return
    rule = _weigh_cubic if mode == "cubic" else _weigh_linear
    (rows, down), (columns, across) = (
        rule(attributes, x, size) for x, size in zip(at, (height, width), strict=True)
    )
    weights = {"row_weights": down, "column_weights": across}
    builder.emit(Resample, node, (source,), rows=rows, columns=columns, **weights)


def _read_sizes(
    builder: GraphBuilder, node: onnx.NodeProto, attributes: Attributes, shape: tuple[int, ...]
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Scales and sizes of the result: (vertical, horizontal) each. `shape` is the map's."""
    channels, *size = shape
    last = len(node.input) - 1
    scales: list[float] = list(attributes.get("scales") or ())
    if node.op_type == "Upsample" or builder.opset < 11:
        if last >= 1:
            scales = _numbers(builder, node.input[1])
        wanted: list[float] = []
    else:
        if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Unsupported("that keeps the aspect")
        given = last >= 2 and node.input[2]
        scales = _numbers(builder, node.input[2]) if given else []
        wanted = _numbers(builder, node.input[3]) if last >= 3 and node.input[3] else []
    axes = [int(axis) % 4 for axis in attributes.get("axes", ())]
    if axes:
        if sorted(axes) != [2, 3]:
            raise Unsupported("of images or channels")
        scales, wanted = (
            [*others, *(v[axes.index(axis)] for axis in (2, 3))] if v else v
            for v, others in ((scales, (1.0, 1.0)), (wanted, (MANY, channels)))
        )
    if wanted:
        # Where the batch is open, 1 is that of the image which an exporter saw.
        images = (MANY, builder.batch or 1)
        if len(wanted) != 4 or wanted[0] not in images or wanted[1] != channels:
            raise Unsupported("of images or channels")
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


def _find_coordinates(
    attributes: Attributes, operator: str, opset: int, size: int, scale: float, wanted: int
) -> np.ndarray:
    """Where each of `wanted` positions is among the `size` of the source."""
    x = np.arange(wanted, dtype=np.float32)
    default = "asymmetric" if operator == "Upsample" or opset < 11 else "half_pixel"
    mode = attributes.get("coordinate_transformation_mode", default)
    scale32 = np.float32(scale)
    if mode == "asymmetric":
        return x / scale32
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and wanted > 1):
        return (x + _HALF) / scale32 - _HALF
    if mode == "half_pixel_symmetric":
        # The part of the scale that the rounded size has, the rest being cut off on both sides.
        part = np.float32(wanted) / np.float32(scale32 * np.float32(size))
        middle = np.float32(size) / np.float32(2)
        return middle * (_ONE - part) + (x + _HALF) / scale32 - _HALF
    if mode in ("align_corners", "pytorch_half_pixel") and wanted == 1:
        return np.zeros(1, np.float32)
    if mode == "align_corners":
        return x * np.float32(size - 1) / np.float32(wanted - 1)
    raise Unsupported(f"coordinates {str(mode)[:30]!r}")


def _take_nearest(
    attributes: Attributes, opset: int, x: np.ndarray, size: int, scale: float
) -> np.ndarray:
    """The nearest positions to `x`."""
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    if opset < 11:  # which say nothing of it; so onnxruntime does, for Upsample too
        rounding = "ceil" if scale < 1 else "floor"
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - _HALF),
        "round_prefer_ceil": lambda v: np.floor(v + _HALF),
    }
    if rounding not in rules:
        raise Unsupported(f"nearest_mode {str(rounding)[:30]!r}")
    found: np.ndarray = rules[rounding](x).astype(np.int64).clip(0, size - 1)
    return found


def _weigh_linear(
    attributes: Attributes, x: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The positions [2, wanted] before and behind `x`, and their weights."""
    x = x.clip(0, size - 1)
    before = x.astype(np.int64)
    behind = np.minimum(before + 1, size - 1)
    part = np.where(before == behind, _HALF, x - before.astype(np.float32))
    return np.stack((before, behind)), np.stack((_ONE - part, part)).astype(np.float32)


def _weigh_cubic(attributes: Attributes, x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions [4, wanted] around `x`, and their weights: Keys' cubic convolution."""
    a = np.float32(attributes.get("cubic_coeff_a", -0.75))
    first = np.floor(x)
    s = x - first
    near = [((a + 2) * t - (a + 3)) * t * t + 1 for t in (s, 1 - s)]
    far = [((a * t - 5 * a) * t + 8 * a) * t - 4 * a for t in (s + 1, 2 - s)]
    weights = np.stack((far[0], near[0], near[1], far[1])).astype(np.float32)
    places = first.astype(np.int64) + np.arange(-1, 3)[:, None]
    if attributes.get("exclude_outside", 0):
        weights = np.where((places >= 0) & (places < size), weights, np.float32(0))
        weights = weights / weights.sum(0)
    return places.clip(0, size - 1), weights
