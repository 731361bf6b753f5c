"""The stack on which a thread's signal handlers run, kept over libraries that replace it.

OpenVINO's plugin for CPUs gives the thread that loads it such a stack and frees it with itself, on
whatever thread that happens. The next signal, an interrupt or the end of a child process, would
then end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class SignalStack(ctypes.Structure):
    """Linux's stack_t."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def read_signal_stack() -> SignalStack:
    """That of this thread; Linux only."""
    found = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found


@contextlib.contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Put back the stack that this thread had before, on Linux."""
    if not sys.platform.startswith("linux"):
        yield
        return
    before = read_signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
