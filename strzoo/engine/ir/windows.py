"""Window arithmetic: output sizes, automatic padding, rounding up, and what an average divides by.

All of it for one axis at a time, as the ONNX operator specification defines it.
"""

from __future__ import annotations

import numpy as np

from strzoo.engine.ir.graph import AveragePool, Shape


def spread(kernel: int, dilation: int) -> int:
    """How many input positions a window spans."""
    return dilation * (kernel - 1) + 1


def count_positions(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int
) -> int:
    """Output size; zero or less if the window does not fit."""
    return (size + before + after - spread(kernel, dilation)) // stride + 1


def pad_same(size: int, kernel: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    """Padding before and after that makes the output size ceil(size / stride)."""
    positions = -(-size // stride)
    total = max((positions - 1) * stride + spread(kernel, dilation) - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if upper else (more, less)


def find_overhang(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int
) -> int:
    """Padding to add at the end so that the output size is rounded up instead of down.

    A window that would start beyond the map and its leading padding is left out, so the answer is
    zero then.
    """
    room = size + before + after - spread(kernel, dilation)
    steps = -(-room // stride)
    if steps * stride >= size + before:
        steps -= 1
    return max(steps * stride - room, 0)


def count_averaged(layer: AveragePool, source: Shape) -> np.ndarray:
    """What each output position of `layer` divides by: float32 [output height, output width].

    Args:
        layer: the pool.
        source: shape of its input, (channels, height, width).
    """
    window = layer.window
    counts = []
    for axis in range(2):
        size, before, after = source[1 + axis], window.pads[axis], window.pads[2 + axis]
        kernel, stride = window.kernel[axis], window.strides[axis]
        dilation = window.dilations[axis]
        positions = count_positions(size, kernel, stride, before, after, dilation)
        taps = np.arange(positions)[:, None] * stride + np.arange(kernel) * dilation - before
        low, high = 0, size
        if layer.count_padding:
            low, high = -before, size + after - layer.overhang[axis]
        counts.append(((taps >= low) & (taps < high)).sum(axis=1))
    return np.outer(*counts).astype(np.float32)
