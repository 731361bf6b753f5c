"""What a window reads, seen from one output pixel: phases of the input, and steps within them.

Output pixel (y, x) reads input row y * stride + k * dilation - pad, for each k of the kernel.
With row = stride * q + phase that is row y + q of the planes that hold the rows of that phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from strzoo.engine.graph import Window


@dataclass(frozen=True)
class Taps:
    """The taps of a window, row by row of the kernel.

    Args:
        strides: of the window.
        phases: the (row, column) remainders that are read, in the order of their planes.
        phase: per tap, the index of its phase.
        steps: per tap, rows and columns from the output pixel's place.
        rows, columns: of the largest phase plane.
        reach: pixels read beyond its edges: top, left, bottom, right.
        outside: whether anything is read that is no pixel; a smaller phase plane may lack a row.
    """

    strides: tuple[int, int]
    phases: tuple[tuple[int, int], ...]
    phase: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    rows: int
    columns: int
    reach: tuple[int, int, int, int]
    outside: bool

    def offsets(self, pitch: int, images: int) -> np.ndarray:
        """Bytes from an output pixel's place to each tap, phase planes left aside; int64."""
        steps = np.asarray(self.steps, np.int64)
        return (steps[:, 0] * pitch + steps[:, 1]) * 4 * images

    @property
    def window(self) -> bool:
        """Whether more is read than the pixel at the output's own place."""
        return any(step != (0, 0) for step in self.steps)


def window_taps(window: Window, source: tuple[int, int], target: tuple[int, int]) -> Taps:
    """The taps of `window` over a map of `source` (height, width) that gives `target`."""
    axes = []
    for axis in (0, 1):
        positions = [
            k * window.dilations[axis] - window.pads[axis] for k in range(window.kernel[axis])
        ]
        stride = window.strides[axis]
        axes.append([(p // stride, p % stride) for p in positions])
    pairs = [(y, x) for y in axes[0] for x in axes[1]]
    phases = tuple(sorted({(y[1], x[1]) for y, x in pairs}))
    index = {phase: position for position, phase in enumerate(phases)}
    size = [
        max(-(-(source[axis] - phase[axis]) // window.strides[axis]) for phase in phases)
        for axis in (0, 1)
    ]
    outside = any(
        q < 0 or target[axis] - 1 + q >= -(-(source[axis] - phase) // window.strides[axis])
        for axis in (0, 1)
        for q, phase in axes[axis]
    )
    first = [min(q for q, _ in axes[axis]) for axis in (0, 1)]
    last = [max(q for q, _ in axes[axis]) for axis in (0, 1)]
    over = [target[axis] - 1 + last[axis] - (size[axis] - 1) for axis in (0, 1)]
    return Taps(
        window.strides,
        phases,
        tuple(index[y[1], x[1]] for y, x in pairs),
        tuple((y[0], x[0]) for y, x in pairs),
        max(size[0], 1),
        max(size[1], 1),
        (max(-first[0], 0), max(-first[1], 0), max(over[0], 0), max(over[1], 0)),
        outside,
    )


def direct_taps(window: Window, source: tuple[int, int], target: tuple[int, int]) -> Taps:
    """The taps in the map itself, for kernels that stride over it: nothing is split."""
    strides = window.strides
    flat = replace(window, strides=(1, 1))
    span = ((target[0] - 1) * strides[0] + 1, (target[1] - 1) * strides[1] + 1)
    return replace(window_taps(flat, source, span), strides=strides)
