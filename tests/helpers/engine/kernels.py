"""One kernel, compiled alone and called on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from strzoo.engine.codegen.operands import HEAD, Kernel
from strzoo.engine.hardware import host_hardware
from strzoo.engine.lowering.instructions import ConstantPool, Instruction
from strzoo.engine.storage import machine_code

LANES = 4
VECTOR = 4 * LANES  # bytes
_FUNCTION = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 3)
# By kernel, and by what it may have been told of the processor.
_known: dict[tuple[Kernel, tuple[str, str]], machine_code.MachineCode] = {}


class Arena:
    """Arrays that a kernel reads and writes, one after the other."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._size = 0

    def add(self, array: np.ndarray) -> int:
        """The byte offset of `array`, fp32."""
        offset = 4 * self._size
        self._arrays.append(np.ascontiguousarray(array, np.float32).reshape(-1))
        self._size += array.size
        return offset

    def reserve(self, *shape: int) -> int:
        """The byte offset of an array of that shape to be written; it holds NaNs before."""
        return self.add(np.full(shape, np.nan, np.float32))

    def floats(self) -> np.ndarray:
        return np.concatenate(self._arrays)


def run_kernel(
    kernel: Kernel,
    arena: Arena,
    operands: Mapping[str, Any],
    *,
    threads: int = 1,
    given: np.ndarray | None = None,
    result: np.ndarray | None = None,
    images: int = 1,
    scratch: int = 1 << 16,
) -> np.ndarray:
    """The floats of the arena after the kernel has run.

    Args:
        operands: by name; an array becomes a table, and operands that are left out are 0.
        threads: whose shares are run one after the other.
        given, result: the caller's images and results.
    """
    pool = ConstantPool()
    values: dict[str, Any] = dict.fromkeys(
        (operand.name for operand in kernel.operands if operand.name not in _OTHERS), 0
    )
    for name, value in operands.items():
        values[name] = pool.add(value, spare=64) if isinstance(value, np.ndarray) else value
    row, constants, floats = Instruction("", kernel, values).row, pool.block(), arena.floats()
    key = kernel, machine_code._host()
    if key not in _known:
        _known[key] = machine_code.compile_kernels([kernel], host_hardware())
    function = _FUNCTION(_known[key].addresses[kernel.name])
    areas = [row, floats, constants, np.full(scratch, 0xFF, np.uint8)]
    addresses = [area.ctypes.data for area in areas]
    addresses += [0 if array is None else array.ctypes.data for array in (given, result)]
    units = int(row[len(HEAD)])
    for thread in range(threads):
        first, last = (units * at // threads for at in (thread, thread + 1))
        function(*addresses, first, last, images)
    return floats


_OTHERS = ("kernel", "number", "done", "units", "step", "partial")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def read(floats: np.ndarray, place: int, *shape: int) -> np.ndarray:
    return floats[place // 4 : place // 4 + int(np.prod(shape))].reshape(shape)


def strides(name: str, planes: int, tile: int) -> dict[str, int]:
    return {f"{name}_plane": VECTOR * tile, f"{name}_tile": VECTOR * tile * planes}


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)
