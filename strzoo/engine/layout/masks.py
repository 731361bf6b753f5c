"""Arrays per float of a plane: whether it is a pixel, and what an average divides by."""

from __future__ import annotations

import numpy as np

from strzoo.engine.ir.graph import AveragePool
from strzoo.engine.ir.windows import count_averaged
from strzoo.engine.layout.buffers import Buffer, Layout


def pixel_mask(layout: Layout) -> np.ndarray:
    """uint32 per float, or uint16 per 16-bit number, of a plane's vectors: all ones on a pixel,
    else zero."""
    kind = np.uint32 if layout.item == 4 else np.uint16
    return _spread(np.full((layout.height, layout.width), np.iinfo(kind).max, kind), layout)


def window_scales(layer: AveragePool, source: Buffer, target: Buffer) -> np.ndarray:
    """fp32 per float of the target's vectors: 1 / the number of pixels averaged, 0 where there is
    no pixel."""
    number = count_averaged(layer, (source.channels, source.height, source.width))
    return _spread(1.0 / np.maximum(number, 1), target.layout)


def _spread(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    flat = np.zeros(layout.vectors * layout.lanes, pixels.dtype)
    places = layout.places(*np.indices(pixels.shape))
    for image in range(layout.images):
        flat[places + image] = pixels
    return flat
