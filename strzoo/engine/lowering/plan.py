"""Plan: everything that a run needs except the machine code, as arrays of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.ir.graph import Shape


@dataclass(frozen=True, eq=False)
class Plan:
    """How to run a network on groups of `images` images.

    Args:
        images: that go together.
        lanes: floats of a vector.
        rows: int64 [instructions, ROW_FIELDS]: the operands of each instruction. Column 0 is left
            for the address of the kernel.
        kernels: of each instruction.
        layers: the layer that each instruction belongs to.
        constants: uint8; weights and tables.
        arena: bytes.
        scratch: bytes per thread.
        input_shape, output_shape: of one image in the caller's arrays; of several inputs or
            outputs, the numbers of all, one after the other.
        chosen: how each layer runs, in words.
    """

    images: int
    lanes: int
    rows: np.ndarray
    kernels: tuple[Kernel, ...]
    layers: tuple[str, ...]
    constants: np.ndarray
    arena: int
    scratch: int
    input_shape: Shape
    output_shape: Shape
    chosen: dict[str, str]


def array_shape(shapes: Sequence[Shape]) -> Shape:
    """How one image's values of these shapes lie in an array of the caller's."""
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)
