"""Run plans: arenas, threads, batches. One model may be called from many threads at once."""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from strzoo.engine.hardware import default_threads
from strzoo.engine.machine_code import MachineCode
from strzoo.engine.planning import Plan

_PROGRAM = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 3])
_ALIGNMENT = 64
_HUGE_PAGE = 2 << 20


class Program:
    """A plan with its machine code: runs one group of images in memory of the caller's choice."""

    def __init__(self, plan: Plan, code: MachineCode) -> None:
        self.plan = plan
        self._code = code
        self._rows = plan.rows.copy()
        self._rows[:, 0] = [code.addresses[kernel.name] for kernel in plan.kernels]
        self._constants = aligned(plan.constants.nbytes)
        self._constants[:] = plan.constants
        self._run = _PROGRAM(code.program)

    def run(
        self,
        memory: Memory,
        images: np.ndarray,
        result: np.ndarray,
        thread: int = 0,
        threads: int = 1,
    ) -> None:
        """One thread's share of one group: `images` [n, C, H, W], n at most the plan's."""
        rows = self._rows
        self._run(
            rows.ctypes.data,
            len(rows),
            rows.strides[0],
            memory.arena.ctypes.data,
            self._constants.ctypes.data,
            memory.scratch[thread].ctypes.data,
            images.ctypes.data,
            result.ctypes.data,
            memory.barrier.ctypes.data,
            thread,
            threads,
            len(images),
        )

    @property
    def steps(self) -> np.ndarray:
        return self._rows


class Memory:
    """What one run at a time works in."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self.arena = aligned(plan.arena)
        self.scratch = [aligned(plan.scratch) for _ in range(threads)]
        self.barrier = np.zeros(8, np.int64)
        self.barrier[1] = _yield_address()


def aligned(size: int) -> np.ndarray:
    """Zeroed bytes that start on a cache line."""
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= _HUGE_PAGE:
        # Planes lie far apart: with small pages nearly every row of pixels is a miss of its own.
        room = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        room.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(room, np.uint8)
        start = -whole.ctypes.data % _HUGE_PAGE
    else:
        whole = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -whole.ctypes.data % _ALIGNMENT
    return whole[start : start + size]


def _yield_address() -> int:
    """A C function without arguments that lets other threads run."""
    if os.name == "nt":
        library, name = ctypes.WinDLL("kernel32"), "SwitchToThread"  # type: ignore[attr-defined]
    else:
        library, name = ctypes.CDLL(None), "sched_yield"
    return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)


class Team:
    """Threads that work on one job together; the caller is the first of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._process = os.getpid()
        self._inboxes: list[queue.SimpleQueue[Any]] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for index in range(1, threads):
            inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self._inboxes.append(inbox)
            threading.Thread(
                target=_work, args=(inbox, self._done, index), name="strzoo-engine", daemon=True
            ).start()

    def run(self, job: Callable[[int], None]) -> None:
        """job(thread) for every thread of the team, at the same time."""
        for inbox in self._inboxes:
            inbox.put(job)
        try:
            job(0)
        finally:
            problems = [self._done.get() for _ in self._inboxes]
        for problem in problems:
            if problem is not None:
                raise problem

    @property
    def usable(self) -> bool:
        """A forked process has the team but not its threads."""
        return self._process == os.getpid()

    def __del__(self) -> None:
        for inbox in self._inboxes:
            inbox.put(None)


def _work(inbox: queue.SimpleQueue[Any], done: queue.SimpleQueue[Any], index: int) -> None:
    while (job := inbox.get()) is not None:
        problem: BaseException | None = None
        try:
            job(index)
        except BaseException as error:
            problem = error
        del job  # it holds the caller's arrays
        done.put(problem)


class Workshop:
    """A team and its memory; lent to one call at a time."""

    def __init__(self, threads: int) -> None:
        self.team = Team(threads)
        self._memories: dict[int, list[Memory]] = {}

    def memories(self, program: Program, count: int, threads: int) -> list[Memory]:
        """`count` memories of the program's, for `threads` threads each; made when first used."""
        found = self._memories.setdefault(id(program), [])
        while len(found) < count:
            found.append(Memory(program.plan, threads))
        return found[:count]


class Runner:
    """Runs batches on programs, from any number of threads; results do not depend on how many."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._idle: list[Workshop] = []
        self._room = threading.Semaphore(max(1, default_threads() // threads))

    @contextmanager
    def _workshop(self) -> Iterator[Workshop]:
        with self._room:
            workshop = self._take()
            try:
                yield workshop
            finally:
                self._idle.append(workshop)

    def _take(self) -> Workshop:
        while self._idle:
            try:
                workshop = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if workshop.team.usable:
                return workshop
        return Workshop(self.threads)

    def run(self, program: Program, images: np.ndarray, result: np.ndarray) -> None:
        """`images` [N, C, H, W] contiguous fp32, `result` [N, ...] likewise."""
        size = program.plan.images
        groups = [slice(start, start + size) for start in range(0, len(images), size)]
        with self._workshop() as workshop:
            # As many groups as threads go side by side, each on a thread of its own: no waiting.
            beside = len(groups) // self.threads * self.threads if self.threads > 1 else 0
            if beside:
                self._run_beside(workshop, program, groups[:beside], images, result)
            for group in groups[beside:]:
                self._run_together(workshop, program, images[group], result[group])

    def _run_beside(
        self,
        workshop: Workshop,
        program: Program,
        groups: list[slice],
        images: np.ndarray,
        result: np.ndarray,
    ) -> None:
        memories = workshop.memories(program, self.threads, self.threads)

        def job(thread: int) -> None:
            for group in groups[thread :: self.threads]:
                program.run(memories[thread], images[group], result[group])

        workshop.team.run(job)

    def _run_together(
        self, workshop: Workshop, program: Program, images: np.ndarray, result: np.ndarray
    ) -> None:
        (memory,) = workshop.memories(program, 1, self.threads)
        memory.barrier[0] = 0
        workshop.team.run(
            lambda thread: program.run(memory, images, result, thread, self.threads)
        )
