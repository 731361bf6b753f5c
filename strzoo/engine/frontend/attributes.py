"""Attributes of ONNX nodes: read with their defaults, windows worked out."""

from __future__ import annotations

from typing import Any

import onnx

from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import AveragePool, Pads, Window
from strzoo.engine.ir.windows import count_averaged, find_overhang, pad_same, spread
from strzoo.onnx import tensors

Attributes = dict[str, Any]
_LARGEST_RATIO, _LARGEST_SIDE = 4, 256  # of a window to its map
Pair = tuple[int, int]


def read_attributes(node: onnx.NodeProto) -> Attributes:
    """Attribute values by name; texts as str."""
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in tensors.read_attributes(node).items()
    }


def read_window(attributes: Attributes, kernel: Pair, size: Pair) -> tuple[Window, Pair]:
    """How a convolution or pool moves over a map of `size` (height, width).

    Rounding up (`ceil_mode`) becomes padding at the bottom and right; how much of it comes second.

    Raises:
        Unsupported: not two axes, negative padding, or a mode unknown.
    """
    strides = _pair(attributes, "strides")
    dilations = _pair(attributes, "dilations")
    if min(*kernel, *strides, *dilations) < 1:
        raise Unsupported("a kernel, stride or dilation below 1")
    pads = _read_pads(attributes, kernel, strides, dilations, size)
    _check_extent(size, kernel, strides, dilations, pads)
    overhang = (0, 0)
    if attributes.get("ceil_mode", 0):
        vertical, horizontal = (
            find_overhang(size[i], kernel[i], strides[i], pads[i], pads[2 + i], dilations[i])
            for i in range(2)
        )
        overhang = (vertical, horizontal)
        pads = (pads[0], pads[1], pads[2] + vertical, pads[3] + horizontal)
    return Window(kernel, strides, pads, dilations), overhang


def _check_extent(size: Pair, kernel: Pair, strides: Pair, dilations: Pair, pads: Pads) -> None:
    """Refuse a window or a padding that is far larger than its map: it would see nothing but
    padding, and the padded map could be of any size."""
    for axis in range(2):
        most = _LARGEST_RATIO * size[axis] + _LARGEST_SIDE
        found = max(spread(kernel[axis], dilations[axis]), strides[axis], *pads[axis::2])
        if found > most:
            raise Unsupported(f"a window or padding of {found} pixels on {size[axis]} of its map")


def read_pool_window(attributes: Attributes, size: Pair) -> tuple[Window, Pair]:
    """As `read_window`, for a pool, no window of which may see only padding."""
    window, overhang = read_window(attributes, _pair(attributes, "kernel_shape"), size)
    if not count_averaged(AveragePool("", (), "", window), (1, *size)).all():
        raise Unsupported("windows that see nothing but padding")
    return window, overhang


def _read_pads(
    attributes: Attributes, kernel: Pair, strides: Pair, dilations: Pair, size: Pair
) -> Pads:
    mode = attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        vertical, horizontal = (
            pad_same(size[i], kernel[i], strides[i], dilations[i], upper=mode == "SAME_UPPER")
            for i in range(2)
        )
        return vertical[0], horizontal[0], vertical[1], horizontal[1]
    if mode != "NOTSET":
        raise Unsupported(f"auto_pad {mode!r}")
    pads = attributes.get("pads") or [0, 0, 0, 0]
    if len(pads) != 4:
        raise Unsupported(f"{len(pads) // 2} axes; images have two")
    if min(pads) < 0:
        raise Unsupported("negative padding")
    return pads[0], pads[1], pads[2], pads[3]


def _pair(attributes: Attributes, name: str) -> Pair:
    values = attributes.get(name) or [1, 1]
    if len(values) != 2:
        raise Unsupported(f"{len(values)} axes; images have two")
    return values[0], values[1]
