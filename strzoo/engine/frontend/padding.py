"""Pad, which joins the window behind it.

TensorFlow's exporter pads before strided convolutions, more at the bottom and right than at the
top and left, and moves the channels there and back around a Pad.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder, Padding, View
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import Convolution, Pads, Window
from strzoo.settings import Limits

_LOWEST = -3e38  # from here down a number never wins a MaxPool


def read_pad(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Zeros around a map become a convolution's own padding, the lowest number a MaxPool's.

    Where something else comes next, zeros are written by a convolution that copies the map.
    """
    attributes = read_attributes(node)
    if attributes.get("mode", "constant") != "constant":
        raise Unsupported(f"mode {str(attributes['mode'])[:20]!r}")
    last = node.input[0] in builder.channels_last
    view = builder.channels_last[node.input[0]] if last else builder.view(node.input[0])
    if len(view.shape) != 3 or builder.shapes[view.value] != view.shape:
        raise Unsupported("of other than a map")
    pads, number = _read_pads(builder, node, attributes, last)
    if number != 0 and number > _LOWEST:
        raise Unsupported(f"with {number:g}")
    if number != 0:
        builder.padded[node.output[0]] = Padding(view.value, pads, number)
        return
    name = f"{node.output[0]}_first" if last else node.output[0]
    made = onnx.helper.make_node("Pad", [node.input[0]], [name], node.name)
    value = _copy_padded(builder, made, view, pads)
    builder.padded[value] = Padding(view.value, pads, 0.0)
    if last:
        builder.channels_last[node.output[0]] = builder.view(name)


def widen(window: Window, pads: Pads) -> Window:
    """`window` over a map that has `pads` around it already."""
    top, left, bottom, right = (a + b for a, b in zip(window.pads, pads, strict=True))
    return replace(window, pads=(top, left, bottom, right))


def _read_pads(
    builder: GraphBuilder, node: onnx.NodeProto, attributes: dict[str, object], last: bool
) -> tuple[Pads, float]:
    """Top, left, bottom, right, and what they are filled with."""
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
    height, width = (1, 2) if last else (2, 3)
    if any(table[axis] != (0, 0) for axis in range(4) if axis not in (height, width)):
        raise Unsupported("of images or channels")
    pads = (table[height][0], table[width][0], table[height][1], table[width][1])
    if min(pads) < 0:
        raise Unsupported("that cuts off")
    return pads, float(number)  # type: ignore[arg-type]


def _copy_padded(builder: GraphBuilder, node: onnx.NodeProto, view: View, pads: Pads) -> str:
    """A copy of the map with zeros around it; dropped if no layer needs it."""
    channels, height, width = view.shape
    size = channels * (height + pads[0] + pads[2]) * (width + pads[1] + pads[3])
    Limits.from_env().check("elements", size, f"the padded map of {node.name or node.output[0]}")
    return builder.emit(
        Convolution,
        node,
        (view.value,),
        weight=np.ones((channels, 1, 1, 1), np.float32),
        bias=np.zeros(channels, np.float32),
        window=Window((1, 1), pads=pads),
        groups=channels,
    )
