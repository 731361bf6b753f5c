"""The parts of a plan: instructions (a kernel and its operands) and the constants they read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from strzoo.engine.codegen.operands import HEAD, ROW_FIELDS, Count, Kernel, Real, row_operands

_ALIGNMENT = 64


@dataclass
class Instruction:
    """One kernel, whose work threads share. It is finished before the next instruction begins."""

    layer: str
    kernel: Kernel
    values: dict[str, int | float]

    @property
    def row(self) -> np.ndarray:
        """The row, int64 [ROW_FIELDS], without what is not the kernel's."""
        row = np.zeros(ROW_FIELDS, np.int64)
        operands = row_operands(self.kernel)[len(HEAD) :]
        values: Any = {"units": 0, "step": 0, **self.values}
        names = {operand.name for operand in operands}
        assert names == set(values), (self.kernel.name, names ^ set(values))
        for position, operand in enumerate(operands, start=len(HEAD)):
            value = values[operand.name]
            if operand.name in ("units", "step"):
                assert isinstance(operand, Count)
                assert operand.exactly is not None
                value = operand.exactly(values)
            row[position] = _bits(value) if isinstance(operand, Real) else value
        return row


def number_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of a plan, int64 [instructions, ROW_FIELDS], numbered from 1 on, each with the units
    of work up to its end."""
    numbered = np.stack(rows)
    numbered[:, 1] = np.arange(1, len(rows) + 1)
    numbered[:, 2] = np.cumsum(numbered[:, len(HEAD)])
    return numbered


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
