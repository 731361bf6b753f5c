"""The block of memory in which the threads of a run tell each other what is done, in lines of the
cache; `dispatch` generates the code that uses it. It needs no llvmlite.

    DONE             units of work done since the run began
    YIELD            the address of a function that lets other threads run
    for each thread  CLAIM: the instruction's number and how far its range is taken
                     BUSY: whether it works on a part; WAITED: how often the first thread waited
                     for that until it yielded its core
"""

from __future__ import annotations

NAME = "run_plan"  # the function that uses it
_LINE = 64  # bytes
DONE, YIELD = 0, _LINE
THREAD = 2 * _LINE  # bytes of the block before those of the first thread, and of each thread
CLAIM, BUSY, WAITED = 0, _LINE, _LINE + 8


def block_bytes(threads: int) -> int:
    """The size of the block of memory that `threads` threads share."""
    return THREAD * (1 + threads)
