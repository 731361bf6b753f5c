"""Windows of stride 2 over an image in 8 bits, as windows of stride 1 over squares of its pixels.

A word has room for four channels and an image has three or one: of a window of 7 x 7 pixels, 49
words are read, a quarter of which is empty. Each square of 2 x 2 pixels has 12 numbers, in three
full words; the window covers 4 x 4 squares, those at its edges in part, in 40 words.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from strzoo.engine.ir.graph import Convolution, Shape, Window
from strzoo.engine.ir.quads import QUAD, find_quads

Parts = tuple[tuple[int, int, int], ...]


def fold_squares(layer: Convolution, shape: Shape) -> tuple[Convolution, Parts] | None:
    """`layer` for an image of `shape` whose squares are pixels, and what numbers these have, as
    `QuantizeQuads.parts`; None where that is not possible, or no fewer words."""
    channels, *sizes = shape
    window = layer.window
    even = not any(size % 2 for size in sizes)
    if not even or window.strides != (2, 2) or window.dilations != (1, 1) or layer.groups > 1:
        return None
    # Rows and columns of a square that come before the window's first, its squares, and padding.
    skipped = [pad % 2 for pad in window.pads[:2]]
    squares = [(k + skip + 1) // 2 for k, skip in zip(window.kernel, skipped, strict=True)]
    before = [(pad + skip) // 2 for pad, skip in zip(window.pads[:2], skipped, strict=True)]
    after = [
        (size + pads[0] + pads[1] - kernel) // 2 + count - size // 2 - first
        for size, pads, kernel, count, first in zip(
            sizes, zip(window.pads[:2], window.pads[2:], strict=True), window.kernel, squares,
            before, strict=True,
        )
    ]  # fmt: skip
    if min(after) < 0:
        return None
    parts = _order(channels, skipped[0], skipped[1])
    weight = np.zeros((len(layer.weight), len(parts), *squares), layer.weight.dtype)
    for number, (channel, row, column) in enumerate(parts):
        y, x = (row - skipped[0]) % 2, (column - skipped[1]) % 2  # the first in the window
        top, left = (y + skipped[0] - row) // 2, (x + skipped[1] - column) // 2
        seen = layer.weight[:, channel, y::2, x::2]
        weight[:, number, top : top + seen.shape[1], left : left + seen.shape[2]] = seen
    if np.count_nonzero(find_quads(weight)) >= np.count_nonzero(find_quads(layer.weight)):
        return None
    pads = (before[0], before[1], after[0], after[1])
    folded = Window((squares[0], squares[1]), pads=pads)
    return replace(layer, weight=weight, window=folded), parts


def _order(channels: int, row: int, column: int) -> Parts:
    """The numbers of a square. At the edges of the window are squares of which only the pixels of
    one row, or of one column, are in it: numbers of these share words.

    Args: `row` and `column` that such squares have.
    """
    both, rows, columns, others = (
        [(channel, row ^ down, column ^ across) for channel in range(channels)]
        for down, across in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    first = both + rows
    room = -len(first) % QUAD
    return (*first, *others[channels - room :], *columns, *others[: channels - room])
