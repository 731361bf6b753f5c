"""The parts of a plan: instructions (a kernel and its operands) and the constants they read."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from strzoo.engine.codegen.operands import HEAD, ROW_FIELDS, Kernel, Real, row_operands

_ALIGNMENT = 64


@dataclass
class Instruction:
    """One kernel call by all threads, which wait for each other before the next instruction."""

    layer: str
    kernel: Kernel
    values: dict[str, int | float]

    def row(self, number: int) -> np.ndarray:
        """The row, int64 [ROW_FIELDS], of the instruction with that number; they count from 1."""
        row = np.zeros(ROW_FIELDS, np.int64)
        operands = row_operands(self.kernel)[len(HEAD) :]
        names = {operand.name for operand in operands}
        assert names == set(self.values), (self.kernel.name, names ^ set(self.values))
        row[1] = number
        for position, operand in enumerate(operands, start=len(HEAD)):
            value = self.values[operand.name]
            row[position] = _bits(value) if isinstance(operand, Real) else value
        return row


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


@dataclass
class ConstantPool:
    """Arrays that kernels read, in one block of bytes; arrays of equal keys are stored once."""

    size: int = 0
    arrays: list[tuple[int, np.ndarray]] = field(default_factory=list)
    _known: dict[Any, int] = field(default_factory=dict)

    def add(self, array: np.ndarray, key: Any = None, *, spare: int = 0) -> int:
        """The byte offset at which `array` will be, followed by at least `spare` bytes."""
        if key is not None and key in self._known:
            return self._known[key]
        offset = self.size
        self.arrays.append((offset, np.ascontiguousarray(array)))
        self.size += -(-(array.nbytes + spare) // _ALIGNMENT) * _ALIGNMENT
        if key is not None:
            self._known[key] = offset
        return offset

    def block(self) -> np.ndarray:
        """All arrays, as uint8."""
        block = np.zeros(self.size + _ALIGNMENT, np.uint8)
        for offset, array in self.arrays:
            block[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        return block
