"""Memory that starts on a cache line."""

from __future__ import annotations

import mmap

import numpy as np

ALIGNMENT = 64
_HUGE_PAGE = 2 << 20


def aligned(size: int) -> np.ndarray:
    """Zeroed bytes that start on a cache line."""
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= _HUGE_PAGE:
        # Weights and buffers are read once per run; small pages would cost a TLB miss every 4 kB.
        room = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        room.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(room, np.uint8)
        start = -whole.ctypes.data % _HUGE_PAGE
    else:
        whole = np.zeros(size + ALIGNMENT, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + size]
