"""Checks in a forked process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def holds_in_fork(check: Callable[[], bool], seconds: int = 60) -> bool:
    """Whether `check` is true in a forked process and ends there in time.

    The child never returns: not if the check fails, and not if it waits for a thread that it lacks.
    """
    child = os.fork()
    if child == 0:
        held = False
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends it, whatever tests set
            signal.alarm(seconds)
            held = check()
        finally:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
