"""Teams of threads that run tasks outside the Python interpreter.

Between calls the workers wait in native code (`codegen.threads`), so that a call neither wakes them
twice nor waits for the GIL.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np

from strzoo.engine.codegen import mailboxes as native
from strzoo.engine.runtime.memory import aligned
from strzoo.errors import StrzooError

_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_RESTS = 16  # of which the time is measured
_KINDS = {
    "serve": (_ADDRESS,),
    "submit": (_ADDRESS, _NUMBER),
    "wait_all": (_ADDRESS, _NUMBER),
    "run_tasks": (_ADDRESS, _NUMBER, _ADDRESS),
    "run_team": (_ADDRESS, _NUMBER, _ADDRESS, _NUMBER, _ADDRESS),
    "rest": (_NUMBER, _NUMBER),
}


class Code(Protocol):
    """Loaded machine code: addresses of functions by name. It must live while they are used."""

    addresses: dict[str, int]


class Team:
    """A team of threads, the caller of `run` among them, for one caller at a time.

    Args:
        threads: of the team.
        code: has the functions of `codegen.threads`. Tasks can call any code.
    """

    def __init__(self, threads: int, code: Code) -> None:
        self.threads = threads
        self._process = os.getpid()
        self._code = code
        self._functions = {
            name: ctypes.CFUNCTYPE(None, *kinds)(code.addresses[name])
            for name, kinds in _KINDS.items()
        }
        self._mailboxes = aligned((threads - 1) * native.MAILBOX).reshape(-1, native.MAILBOX)
        self._numbers = self._mailboxes.view(np.int64)
        self._address = self._mailboxes.ctypes.data
        self._tasks: Sequence[np.ndarray] = ()
        self._next = aligned(64).view(np.int64)
        self._affinity = Affinity()
        self._semaphores = [
            Semaphore(self._mailboxes[index, native.SEMAPHORE :]) for index in range(threads - 1)
        ]
        for index, semaphore in enumerate(self._semaphores):
            self._fill(index, native.HANDLE, semaphore.handle)
            self._fill(index, native.WAIT, semaphore.wait)
            self._fill(index, native.POST, semaphore.post)
            self._fill(index, native.YIELD, yield_address())
            # The worker can outlive the team for a moment; it keeps alive what it uses.
            held = (self._functions["serve"], self._mailboxes, index, semaphore, code)
            worker = threading.Thread(target=_work, args=held, name="strzoo-engine", daemon=True)
            try:
                worker.start()
            except RuntimeError as error:
                self.threads = index + 1  # whom `__del__` stops
                raise StrzooError(
                    f"the system starts no more than {index} threads beside this one, {threads} "
                    "are asked for in all; compile the model for fewer"
                ) from error
            self._affinity.add(worker)

    def _fill(self, worker: int, offset: int, value: int) -> None:
        self._numbers[worker, offset // 8] = value

    def run(self, tasks: Sequence[np.ndarray]) -> None:
        """Run tasks[i], int64 [N, TASK_FIELDS], on thread i, all threads at the same time.

        The tasks of a worker that has not begun when the caller's are done are left out: the
        threads must work on one thing together, as in `run_plan`.
        """
        self._run(tasks, 0)

    def share(self, tasks: Sequence[np.ndarray]) -> None:
        """Run task n on whichever thread i is free first, as tasks[i][n], for every n."""
        self._next[0] = 0
        self._run(tasks, self._next.ctypes.data)

    def _run(self, tasks: Sequence[np.ndarray], following: int) -> None:
        self._hand_out(tasks, following)
        own = tasks[0]
        self._functions["run_team"](
            self._address, self.threads - 1, own.ctypes.data, len(own), following
        )

    @cached_property
    def rest_seconds(self) -> float:
        """How long a thread waits for others until it yields its core once."""
        times = []
        for _ in range(3):
            start = time.perf_counter()
            self._functions["rest"](_RESTS, yield_address())
            times.append((time.perf_counter() - start) / _RESTS)
        return min(times)

    def time(self, tasks: Sequence[np.ndarray]) -> list[float]:
        """As `run`; returns the seconds that each task of the first thread took."""
        self._hand_out(tasks)
        self._functions["submit"](self._address, self.threads - 1)
        own, done = tasks[0], 0
        marks = [time.perf_counter()]
        try:
            while done < len(own):
                self._functions["run_tasks"](own[done:].ctypes.data, 1, 0)
                done += 1
                marks.append(time.perf_counter())
        finally:
            # After an interruption too: the workers may be waiting for this thread.
            self._functions["run_tasks"](own[done:].ctypes.data, len(own) - done, 0)
            self._functions["wait_all"](self._address, self.threads - 1)
        return [after - before for before, after in pairwise(marks)]

    def _hand_out(self, tasks: Sequence[np.ndarray], following: int = 0) -> None:
        self._tasks = tasks  # must live while they run
        self._affinity.keep_off_this_core()
        for worker, own in zip(range(self.threads - 1), tasks[1:], strict=True):
            self._fill(worker, native.TASKS, own.ctypes.data)
            self._fill(worker, native.COUNT, len(own))
            self._fill(worker, native.NEXT, following)

    def __del__(self) -> None:
        if self._process == os.getpid():  # a forked process has the team but not its threads
            for worker in range(self.threads - 1):
                self._fill(worker, native.COUNT, native.STOP)
            self._functions["submit"](self._address, self.threads - 1)


def _work(
    serve: Callable[[int], None],
    mailboxes: np.ndarray,
    index: int,
    _semaphore: Semaphore,
    _code: Code,
) -> None:
    serve(mailboxes.ctypes.data + index * native.MAILBOX)


class Semaphore:
    """A semaphore of the operating system, for native code: the addresses of the functions that
    wait for it and post it, and the handle that they take.

    Args:
        room: 32 bytes or more, for systems whose semaphores live in the caller's memory.
    """

    def __init__(self, room: np.ndarray) -> None:
        self._room = room
        if os.name == "nt":
            library = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
            library.CreateSemaphoreW.restype = ctypes.c_void_p
            self.handle: int = library.CreateSemaphoreW(None, 0, 0x7FFFFFFF, None)
            wait, post, self._close = "WaitForSingleObject", "ReleaseSemaphore", "CloseHandle"
        elif sys.platform == "darwin":  # it lacks sem_init
            library = ctypes.CDLL(None)
            library.dispatch_semaphore_create.restype = ctypes.c_void_p
            self.handle = library.dispatch_semaphore_create(ctypes.c_long(0))
            wait, post = "dispatch_semaphore_wait", "dispatch_semaphore_signal"
            self._close = "dispatch_release"
        else:
            library = ctypes.CDLL(None)
            self.handle = room.ctypes.data
            if library.sem_init(ctypes.c_void_p(self.handle), 0, 0):
                raise OSError("the system gives no semaphore")
            wait, post, self._close = "sem_wait", "sem_post", "sem_destroy"
        self.wait, self.post = (_function_address(library, name) for name in (wait, post))
        self._library = library

    def __del__(self) -> None:
        if hasattr(self, "_library"):  # __init__ succeeded
            getattr(self._library, self._close)(ctypes.c_void_p(self.handle))


class Affinity:
    """Keeps workers off the core of the thread that calls them.

    Linux often wakes a thread on the core of the thread that wakes it, on virtual machines even if
    another core is idle. Both then share that core until the load is balanced, and a call takes as
    long as on one thread. On systems where threads cannot be placed, nothing is done.
    """

    def __init__(self) -> None:
        self._workers: list[int] = []
        self._core = -1
        self._this_core = None
        if hasattr(os, "sched_setaffinity"):
            self._this_core = getattr(ctypes.PyDLL(None), "sched_getcpu", None)
            self._cores = os.sched_getaffinity(0)

    def add(self, worker: threading.Thread) -> None:
        if worker.native_id is not None:
            self._workers.append(worker.native_id)

    def keep_off_this_core(self) -> None:
        """Move the workers if the calling thread runs on a core that they may use."""
        if self._this_core is None or len(self._workers) >= len(self._cores):
            return
        core = self._this_core()
        if core == self._core:
            return
        self._core = core
        for worker in self._workers:
            try:
                os.sched_setaffinity(worker, self._cores - {core})
            except OSError:  # the process was given other cores since
                self._this_core = None
                return


def yield_address() -> int:
    """The address of a C function without arguments that lets other threads run."""
    if os.name == "nt":
        return _function_address(ctypes.WinDLL("kernel32"), "SwitchToThread")  # type: ignore[attr-defined]
    return _function_address(ctypes.CDLL(None), "sched_yield")


def _function_address(library: ctypes.CDLL, name: str) -> int:
    return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
