"""Memory between pages that cannot be touched, and plans that run in it."""

from __future__ import annotations

import ctypes
import mmap
from types import SimpleNamespace
from typing import Any

import numpy as np

from strzoo.engine.codegen import blocks
from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.lowering.plan import Plan
from strzoo.engine.runtime.run import Program
from strzoo.engine.runtime.threads import yield_address
from strzoo.engine.storage.machine_code import MachineCode, compile_kernels

UNWRITTEN = 0x7FC12345  # a NaN that no kernel computes
PROT_NONE = 0


class Guarded:
    """`size` bytes with an inaccessible page on either side; `at_end` says on which side there is
    not a byte in between."""

    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def __init__(self, size: int, *, at_end: bool) -> None:
        page = mmap.PAGESIZE
        room = -(-max(size, 1) // page) * page
        self._map = mmap.mmap(-1, room + 2 * page)
        whole = np.frombuffer(self._map, np.uint8)
        start = page + (room - size if at_end else 0)
        self.bytes = whole[start : start + size]
        self.address = whole.ctypes.data + start
        for guard in (whole.ctypes.data, whole.ctypes.data + page + room):
            if self._libc.mprotect(guard, page, PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")


class Codes:
    """The machine code of kernels, each compiled once."""

    def __init__(self, hardware: Hardware, folder: Any = None) -> None:
        self.hardware, self.folder = hardware, folder
        self.addresses: dict[str, int] = {}
        self._parts: list[MachineCode] = []
        self._known: dict[str, Kernel] = {}

    def add(self, kernels: tuple[Kernel, ...]) -> None:
        missing = {kernel for kernel in kernels if self._known.get(kernel.name) != kernel}
        if missing or not self.addresses:
            code = compile_kernels(missing, self.hardware, self.folder)
            self._parts.append(code)
            self.addresses |= code.addresses
            self._known |= {kernel.name: kernel for kernel in missing}


def run_guarded(
    plan: Plan, codes: Codes, images: np.ndarray, *, threads: int = 1, at_end: bool = True
) -> np.ndarray:
    """The results of `plan` for images [n, C, H, W], in memory between guard pages.

    The threads' shares are run one after the other, instruction by instruction.
    """
    codes.add(plan.kernels)
    program: Any = Program(plan, codes)
    shape = (len(images), *plan.output_shape)
    areas = {
        "constants": plan.constants.nbytes,
        "rows": plan.rows.nbytes,
        "arena": plan.arena,
        "input": images.nbytes,
        "output": 4 * int(np.prod(shape)),
    }
    memory = {name: Guarded(size, at_end=at_end) for name, size in areas.items()}
    scratch = [Guarded(plan.scratch, at_end=at_end) for _ in range(threads)]
    blocks = [_own_part(thread, threads) for thread in range(threads)]
    memory["constants"].bytes[:] = plan.constants
    memory["rows"].bytes[:] = program._rows.reshape(-1).view(np.uint8)
    memory["input"].bytes[:] = images.reshape(-1).view(np.uint8)
    memory["output"].bytes.view(np.uint32)[:] = UNWRITTEN
    program._rows_address = memory["rows"].address
    program._constants_address = memory["constants"].address
    places = [
        SimpleNamespace(
            arena_address=memory["arena"].address,
            scratch_addresses=[area.address for area in scratch],
            block_address=block.ctypes.data,
        )
        for block in blocks
    ]
    given, result = (
        memory[name].bytes.view(np.float32).reshape(size)
        for name, size in (("input", images.shape), ("output", shape))
    )
    tasks = np.array(
        [
            program.task(places[thread], given, result, thread, threads, slice(index, index + 1))
            for index in range(len(program))
            for thread in range(threads)
        ],
        np.int64,
    )
    run_tasks = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(
        codes.addresses["run_tasks"]
    )
    run_tasks(tasks.ctypes.data, len(tasks), None)
    return result.copy()


def _own_part(thread: int, threads: int) -> np.ndarray:
    """A block for `thread` in which the others' parts are taken and nothing is waited for."""
    block = np.zeros(blocks.block_bytes(threads) // 8, np.int64)
    block[blocks.DONE // 8], block[blocks.YIELD // 8] = 1 << 60, yield_address()
    claims = block[blocks.THREAD // 8 :].reshape(threads, -1)[:, blocks.CLAIM // 8]
    claims[:] = 1 << 62
    claims[thread] = 0
    return block
