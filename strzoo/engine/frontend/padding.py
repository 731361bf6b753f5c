"""Pad, which joins the window behind it.

TensorFlow's exporter pads before strided convolutions, more at the bottom and right than at the
top and left, and moves the channels there and back around a Pad.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.values import Padding
from strzoo.engine.ir.graph import Add, Affine, Concat, Convolution, Pads, Pick, Window
from strzoo.settings import Limits

_LOWEST = -3e38  # from here down a number never wins a MaxPool


def read_pad(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Zeros around a map become a convolution's own padding, the lowest number a MaxPool's.

    Where something else comes next, zeros are written by a convolution that copies the map, and
    other numbers are added to them. The other modes take pixels of the map again.
    """
    attributes = read_attributes(node)
    mode = attributes.get("mode", "constant")
    turned = builder.channels_last.get(node.input[0])
    last = turned is not None and turned.shape == builder.shapes[turned.value]
    view = turned if turned is not None and last else builder.view(node.input[0])
    if len(view.shape) != 3:
        raise Unsupported("of other than a map")
    pads, channels, number = _read_pads(builder, node, attributes, last)
    source = view.value if last else builder.map_value(node.input[0])
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Unsupported(f"mode {str(mode)[:20]!r}")
    around = mode == "constant" and not last and channels == (0, 0) and min(pads) >= 0
    if around and any(pads) and number <= _LOWEST:
        builder.padded[node.output[0]] = Padding(source, pads, number)
        return
    if mode == "constant" and not np.isfinite(np.float32(number)):
        raise Unsupported(f"with {number:g}")  # zero times it is NaN
    if mode != "constant" or min(pads) < 0:
        if mode != "constant" and (channels != (0, 0) or min(pads) < 0):
            raise Unsupported(f"mode {mode!r} of channels, or that also cuts off")
        source = _take_pixels(builder, node, source, mode, pads)
        pads = (0, 0, 0, 0) if mode != "constant" else _positive(pads)
    if channels != (0, 0):
        source = _add_channels(builder, node, source, channels, number)
    shape = builder.shapes[source]
    if not any(pads):
        builder.bind(node, source, shape)
    else:
        value = _copy_padded(builder, node, source, pads)
        if number != 0:
            value = _add_number(builder, node, source, value, pads, number)
        else:
            builder.padded[value] = Padding(source, pads, 0.0)
        builder.bind(node, value, builder.shapes[value])
    if last:
        builder.turn_last(node)


def widen(window: Window, pads: Pads) -> Window:
    """`window` over a map that has `pads` around it already."""
    top, left, bottom, right = (a + b for a, b in zip(window.pads, pads, strict=True))
    return replace(window, pads=(top, left, bottom, right))


def _read_pads(
    builder: GraphBuilder, node: onnx.NodeProto, attributes: dict[str, object], last: bool
) -> tuple[Pads, tuple[int, int], float]:
    """Top, left, bottom, right; channels before and behind; and what they are filled with."""
    number = attributes.get("value", 0.0)
    if builder.opset < 11:
        given = attributes.get("pads") or attributes.get("paddings") or ()
        axes = list(range(4))
    else:
        given = builder.integers(node.input[1])
        axes = builder.integers(node.input[3]) if len(node.input) > 3 and node.input[3] else (
            list(range(4))
        )  # fmt: skip
        if len(node.input) > 2 and node.input[2]:
            array = builder.constant(node.input[2])
            if array is None:
                raise Unsupported("with a number that is computed")
            number = array.reshape(())
    sizes = [int(size) for size in given]  # type: ignore[attr-defined]
    if len(sizes) != 2 * len(axes):
        raise Unsupported(f"{len(sizes)} numbers for {len(axes)} axes")
    table = [(0, 0)] * 4
    for index, axis in enumerate(axes):
        table[axis % 4] = (sizes[index], sizes[index + len(axes)])
    height, width, channels = (1, 2, 3) if last else (2, 3, 1)
    if table[0] != (0, 0):
        raise Unsupported("of images")
    if min(table[channels]) < 0:
        raise Unsupported("that cuts off channels")
    pads = (table[height][0], table[width][0], table[height][1], table[width][1])
    return pads, table[channels], float(number)  # type: ignore[arg-type]


def _take_pixels(
    builder: GraphBuilder, node: onnx.NodeProto, source: str, mode: str, pads: Pads
) -> str:
    """What is left of the map where `pads` cut off, and its own pixels around it unless `mode` is
    "constant"."""
    shape = builder.shapes[source]
    kept = []
    for size, before, after in zip(shape[1:], pads[:2], pads[2:], strict=True):
        places = np.arange(size)
        if mode != "constant":
            Limits.from_env().check("elements", size + abs(before) + abs(after), "a padded map")
            if max(before, after) >= size + (mode != "reflect") and mode != "edge":
                raise Unsupported(f"mode {mode!r} by {max(before, after)} on {size}")
            places = np.pad(places, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
        places = places[max(-before, 0) : len(places) - max(-after, 0)]
        if not len(places):
            raise Unsupported("that leaves nothing")
        kept.append(places)
    return builder.emit(Pick, node, (source,), rows=kept[0], columns=kept[1])


def _positive(pads: Pads) -> Pads:
    top, left, bottom, right = (max(pad, 0) for pad in pads)
    return top, left, bottom, right


def _constant_map(builder: GraphBuilder, node: onnx.NodeProto, source: str, count: int) -> str:
    """A map of `count` channels of ones, as large as `source`."""
    weight = np.zeros((count, builder.shapes[source][0], 1, 1), np.float32)
    ones = np.ones(count, np.float32)
    return builder.emit(
        Convolution, node, (source,), weight=weight, bias=ones, window=Window((1, 1))
    )


def _add_channels(
    builder: GraphBuilder,
    node: onnx.NodeProto,
    source: str,
    channels: tuple[int, int],
    number: float,
) -> str:
    """The map with channels of `number` before and behind it."""
    _, height, width = builder.shapes[source]
    Limits.from_env().check("elements", sum(channels) * height * width, "padded channels")
    parts = [source]
    for place, count in enumerate(channels):
        if count:
            ones = _constant_map(builder, node, source, count)
            filled = builder.emit(
                Affine,
                node,
                (ones,),
                scale=np.full(count, number, np.float32),
                shift=np.zeros(count, np.float32),
            )
            parts = [*parts, filled] if place else [filled, *parts]
    return builder.emit(Concat, node, tuple(parts))


def _add_number(
    builder: GraphBuilder, node: onnx.NodeProto, source: str, padded: str, pads: Pads, number: float
) -> str:
    """`padded`, the map `source` with zeros around it, with `number` in place of these zeros.

    It is the number less itself inside, by a window over a map of ones that are padded alike.
    """
    channels = builder.shapes[source][0]
    ones = _constant_map(builder, node, source, 1)
    filled = builder.emit(
        Convolution,
        node,
        (ones,),
        weight=np.full((channels, 1, 1, 1), -number, np.float32),
        bias=np.full(channels, number, np.float32),
        window=Window((1, 1), pads=pads),
    )
    return builder.emit(Add, node, (padded, filled))


def _copy_padded(builder: GraphBuilder, node: onnx.NodeProto, source: str, pads: Pads) -> str:
    """A copy of the map with zeros around it; dropped if no layer needs it."""
    channels, height, width = builder.shapes[source]
    size = channels * (height + pads[0] + pads[2]) * (width + pads[1] + pads[3])
    Limits.from_env().check("elements", size, f"the padded map of {node.name or node.output[0]}")
    return builder.emit(
        Convolution,
        node,
        (source,),
        weight=np.ones((channels, 1, 1, 1), np.float32),
        bias=np.zeros(channels, np.float32),
        window=Window((1, 1), pads=pads),
        groups=channels,
    )
