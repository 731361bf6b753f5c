"""Arrays that say which floats of a line are pixels, and what an average divides by."""

from __future__ import annotations

import numpy as np

from strzoo.engine.graph import AveragePool
from strzoo.engine.layout import Frame, Map


def pixel_mask(frame: Frame) -> np.ndarray:
    """uint32 per float of a line: all ones on a pixel, else zero."""
    pixels = np.zeros((frame.height, frame.width), np.uint32)
    pixels[:] = 0xFFFFFFFF
    return _spread(pixels, frame)


def window_scales(layer: AveragePool, source: Map, target: Map) -> np.ndarray:
    """fp32 per float of the target's line: one over the number of pixels averaged, zero where
    there is no pixel.

    With `count_padding` the padding counts, but what a rounded-up size adds beyond it does not.
    """
    counts = []
    for axis, (size, length) in enumerate(
        ((source.height, target.height), (source.width, target.width))
    ):
        window = layer.window
        before, after = window.pads[axis], window.pads[axis + 2]
        counted = size + after - layer.overhang[axis]
        low, high = (-before, counted) if layer.count_padding else (0, size)
        starts = np.arange(length) * window.strides[axis] - before
        taps = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        counts.append(((taps >= low) & (taps < high)).sum(1))
    number = np.maximum(np.outer(*counts), 1)
    return _spread((1.0 / number).astype(np.float32), target.geometry)


def _spread(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    height, width = pixels.shape
    length = (frame.vectors + 1) * frame.lanes  # the last row may end past the end
    rows = np.zeros((height, frame.pitch, frame.images), pixels.dtype)
    rows[:, :width] = pixels[:, :, None]
    flat = np.zeros(max(length, rows.size), pixels.dtype)
    flat[: rows.size] = rows.reshape(-1)
    return flat[:length]
