"""Operands: what the numbers in an instruction's row mean.

A kernel lists its operands in the order of the row. This list is the only description of the row:
lowering fills rows by it, the emitter reads operands by their kind, and `storage.plan_checks`
derives from it whether an instruction stays within its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any, Protocol

import numpy as np

from strzoo.engine.ir.functions import FUNCTIONS

ARENA, CONSTANTS, SCRATCH, INPUT, OUTPUT = "arena", "constants", "scratch", "input", "output"


class Values(Protocol):
    """The operands of one instruction, and the contents of its tables."""

    def __getitem__(self, name: str, /) -> int:
        """The number that the operand `name` holds."""

    def table(self, name: str) -> np.ndarray:
        """The array that the operand `name` leads to, checked to be within its limits."""


Size = Callable[[Values], int]


@dataclass(frozen=True)
class Operand:
    """One number of a row. This kind itself is for what is not the kernel's: its address, the
    number of the instruction, and the units of work up to its end."""

    name: str


@dataclass(frozen=True)
class Count(Operand):
    """A number, at least 1. Where they are given, it must be `exactly` or at `most` what follows
    from the other operands."""

    exactly: Size | None = None
    most: Size | None = None


@dataclass(frozen=True)
class Stride(Operand):
    """Bytes from one thing to the next."""


@dataclass(frozen=True)
class ImageStride(Stride):
    """Bytes from image to image, which the caller's arrays determine in INPUT and OUTPUT."""

    area: str = ARENA


@dataclass(frozen=True)
class Real(Operand):
    """The bits of a float64."""


@dataclass(frozen=True)
class Place(Operand):
    """Bytes from the start of `area` to where the kernel reads or writes `extent` bytes.

    INPUT and OUTPUT are the caller's arrays, [n, numbers of all inputs or outputs]. Places in them
    are those of the first image, and OUTPUT must be filled.
    """

    area: str
    extent: Size


@dataclass(frozen=True)
class Fixed(Place):
    """A place at the start of its area, which needs no number in the row."""


@dataclass(frozen=True)
class Table(Operand):
    """Bytes from the start of the constants to `size` items of `dtype`; none if it is not read."""

    dtype: str
    size: Size
    area = CONSTANTS


@dataclass(frozen=True)
class Indices(Table):
    """A table of numbers that are not negative, multiples of `unit`, and less than `below`."""

    below: Size | None = None
    unit: int = 1


@dataclass(frozen=True)
class Ends(Table):
    """A table of numbers that never decrease, multiples of `unit`, and at most `most`: where ranges
    start, and where the last one ends."""

    most: Size | None = None
    unit: int = 1


class Kernel(Protocol):
    """A frozen dataclass that describes a kernel and generates its code."""

    @property
    def name(self) -> str:
        """Of the generated function; different kernels have different names."""

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Of the kernel's instructions, in the order of the row."""

    def fits(self, lanes: int, images: int) -> bool:
        """Whether the kernel can be part of a plan for vectors of `lanes` floats and groups of
        `images` images."""

    def emit(self, module: Any) -> Any:
        """Add the kernel's function to an LLVM module."""


HEAD = (Operand("kernel"), Operand("number"), Operand("done"))
ROW_FIELDS = 40  # i64 numbers in the row of an instruction
MOST_UNITS = (1 << 40) - 1  # of an instruction
MOST_INSTRUCTIONS = 1 << 20
LANES = (1, 64)  # floats of a vector, images of a group, blocks of a plane
TILE = (1, 64)  # vectors of a tile; its code is unrolled
BOUNDS = ("none", "relu", "clamp", *FUNCTIONS)


def work(units: Size, step: Size) -> tuple[Operand, ...]:
    """The first operands of every kernel: how many units its work has, and after how many a thread
    should stop and look for more, because units up to a multiple of `step` have much in common."""
    return Count("units", units, lambda v: MOST_UNITS), Count("step", step)


def row_operands(kernel: Kernel) -> list[Operand]:
    """The operands of a kernel that are numbers in the row, in order."""
    return [operand for operand in kernel.operands if not isinstance(operand, Fixed)]


def between(least: int, most: int, default: Any = MISSING) -> Any:
    """A dataclass field: a whole number in a kernel's description, with its limits."""
    return field(default=default, metadata={"least": least, "most": most})


def one_of(*texts: str, default: Any = MISSING) -> Any:
    """A dataclass field: a text in a kernel's description, with its possible values."""
    return field(default=default, metadata={"choices": texts})
