"""Arrays that say which floats of a line are pixels, and what an average divides by."""

from __future__ import annotations

import numpy as np

from strzoo.engine.graph import AveragePool
from strzoo.engine.layout import Frame, Map
from strzoo.engine.windows import count_averaged


def pixel_mask(frame: Frame) -> np.ndarray:
    """uint32 per float of a line: all ones on a pixel, else zero."""
    pixels = np.zeros((frame.height, frame.width), np.uint32)
    pixels[:] = 0xFFFFFFFF
    return _spread(pixels, frame)


def window_scales(layer: AveragePool, source: Map, target: Map) -> np.ndarray:
    """fp32 per float of the target's line: one over the number of pixels averaged, zero where
    there is no pixel."""
    number = count_averaged(layer, (source.channels, source.height, source.width))
    return _spread(1.0 / np.maximum(number, 1), target.geometry)


def _spread(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    height, width = pixels.shape
    length = (frame.vectors + 1) * frame.lanes  # the last row may end past the end
    rows = np.zeros((height, frame.pitch, frame.images), pixels.dtype)
    rows[:, :width] = pixels[:, :, None]
    flat = np.zeros(max(length, rows.size), pixels.dtype)
    flat[: rows.size] = rows.reshape(-1)
    return flat[:length]
