"""Arrays that say which floats of a plane are pixels, and what an average divides by."""

from __future__ import annotations

import numpy as np

from strzoo.engine.ir.graph import AveragePool
from strzoo.engine.ir.windows import count_averaged
from strzoo.engine.layout.buffers import Frame, Map


def pixel_mask(frame: Frame) -> np.ndarray:
    """uint32 per float of a plane's vectors: all ones on a pixel, else zero."""
    return _spread(np.full((frame.height, frame.width), 0xFFFFFFFF, np.uint32), frame)


def window_scales(layer: AveragePool, source: Map, target: Map) -> np.ndarray:
    """fp32 per float of the target's vectors: one over the number of pixels averaged, zero where
    there is no pixel."""
    number = count_averaged(layer, (source.channels, source.height, source.width))
    return _spread(1.0 / np.maximum(number, 1), target.geometry)


def _spread(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    flat = np.zeros(frame.vectors * frame.lanes, pixels.dtype)
    places = frame.floats(*np.indices(pixels.shape))
    for image in range(frame.images):
        flat[places + image] = pixels
    return flat
