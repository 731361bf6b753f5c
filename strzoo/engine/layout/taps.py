"""Taps: what a window reads from one output pixel, as phases of the input and offsets in them.

Output pixel (y, x) reads input row y * stride + k * dilation - pad, for each k of the kernel.
With row = stride * q + phase that is row y + q of the planes that hold the rows of that phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from strzoo.engine.ir.graph import Window


@dataclass(frozen=True)
class Taps:
    """The taps of a window, row by row of the kernel.

    Args:
        strides: of the window.
        phases: the (row, column) remainders that are read, in the order of their planes.
        phase: per tap, the index of its phase.
        offsets: per tap, rows and columns from the output pixel's place.
        advance: rows and columns of the planes that are read, from one output pixel to the next:
            the strides, or ones where phases have planes of their own.
        rows, columns: of the largest phase plane.
        outside: whether anything is read that is no pixel; a smaller phase plane may lack a row.
    """

    strides: tuple[int, int]
    phases: tuple[tuple[int, int], ...]
    phase: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    advance: tuple[int, int]
    rows: int
    columns: int
    outside: bool

    @property
    def window(self) -> bool:
        """Whether any pixel other than the one at the output's own place is read."""
        return self.advance != (1, 1) or any(offset != (0, 0) for offset in self.offsets)


def window_taps(window: Window, source: tuple[int, int], target: tuple[int, int]) -> Taps:
    """The taps of `window` over a map of size `source` (height, width) that gives size `target`."""
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
    return Taps(
        window.strides,
        phases,
        tuple(index[y[1], x[1]] for y, x in pairs),
        tuple((y[0], x[0]) for y, x in pairs),
        (1, 1),
        max(size[0], 1),
        max(size[1], 1),
        outside,
    )


def direct_taps(window: Window, source: tuple[int, int], target: tuple[int, int]) -> Taps:
    """The taps in the input itself, where one block of it makes one block of the output; no phases
    are split off."""
    strides = window.strides
    flat = replace(window, strides=(1, 1))
    span = ((target[0] - 1) * strides[0] + 1, (target[1] - 1) * strides[1] + 1)
    return replace(window_taps(flat, source, span), strides=strides, advance=strides)
