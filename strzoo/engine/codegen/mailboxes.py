"""The memory that a worker and its caller share; `threads` generates the code that uses it.

Needs no llvmlite.

The caller offers tasks by their ticket, and the worker takes the offer. What it has not taken when
the caller has nothing left to do, the caller withdraws, so that nobody waits for a worker that has
no core. HANDLE, WAIT and POST are a semaphore of the operating system. Its functions are called
with more arguments than some systems' versions take, which C's calling conventions allow:

    wait(handle, forever = -1)        post(handle, one = 1, nothing = null)
"""

from __future__ import annotations

# The functions that use it.
NAMES = ("run_tasks", "submit", "wait_all", "serve", "run_team", "rest")
# Byte offsets in a mailbox. What the worker writes has a cache line of its own.
TICKET, TASKS, COUNT, ASLEEP, HANDLE, WAIT, POST, NEXT = range(0, 64, 8)
DONE, OFFER, YIELD = 64, 72, 80
SEMAPHORE = 128  # memory for systems whose semaphores live in the caller's memory
MAILBOX = 256
STOP = -1  # as COUNT: the worker returns
