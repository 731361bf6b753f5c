"""What a plan is made of: instructions (a kernel and its numbers) and the constants they read."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

ROW_FIELDS = 32  # i64 numbers in the row of a step
_ALIGNMENT = 64


class Kernel(Protocol):
    """A frozen dataclass that writes its own code."""

    @property
    def name(self) -> str: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    def emit(self, module: Any) -> Any: ...


@dataclass
class Instruction:
    """One kernel call of all threads, which wait for each other before the next one."""

    layer: str
    kernel: Kernel
    values: dict[str, int | float]

    def row(self, sync: int) -> np.ndarray:
        """The i64 numbers that the kernel reads; floats as the bits of a float64."""
        row = np.zeros(ROW_FIELDS, np.int64)
        unknown = set(self.values) - set(self.kernel.fields)
        missing = set(self.kernel.fields) - set(self.values) - {"kernel", "sync"}
        assert not unknown, (self.kernel.name, unknown)
        assert not missing, (self.kernel.name, missing)
        for position, name in enumerate(self.kernel.fields):
            value = self.values.get(name, 0)
            row[position] = _bits(value) if isinstance(value, float) else value
        row[1] = sync
        return row


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


@dataclass
class ConstantPool:
    """Arrays that kernels read, in one block of bytes; equal keys are stored once."""

    size: int = 0
    arrays: list[tuple[int, np.ndarray]] = field(default_factory=list)
    _known: dict[Any, int] = field(default_factory=dict)

    def add(self, array: np.ndarray, key: Any = None, *, spare: int = 0) -> int:
        """The byte offset at which `array` will be; `spare` bytes after it may be read."""
        if key is not None and key in self._known:
            return self._known[key]
        offset = self.size
        self.arrays.append((offset, np.ascontiguousarray(array)))
        self.size += -(-(array.nbytes + spare) // _ALIGNMENT) * _ALIGNMENT
        if key is not None:
            self._known[key] = offset
        return offset

    def block(self) -> np.ndarray:
        """All of it, as uint8."""
        block = np.zeros(self.size + _ALIGNMENT, np.uint8)
        for offset, array in self.arrays:
            block[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        return block
