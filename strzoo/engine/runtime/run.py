"""Run plans: arenas, threads, batches. One model may be called from many threads at once."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from strzoo.engine.codegen.dispatch import NAME
from strzoo.engine.hardware import default_threads
from strzoo.engine.runtime.memory import aligned
from strzoo.engine.runtime.semaphore import Turnstile
from strzoo.engine.runtime.threads import Code, Team, yield_address

if TYPE_CHECKING:
    from strzoo.engine.lowering.plan import Plan

AT_ONCE = 32  # groups of each thread in one native call: only between calls can Python interrupt


class Program:
    """A plan with its machine code: runs one group of images in memory of the caller's choice."""

    def __init__(self, plan: Plan, code: Code) -> None:
        self.code = code
        self._rows = plan.rows.copy()
        self._rows[:, 0] = [code.addresses[kernel.name] for kernel in plan.kernels]
        self._constants = aligned(plan.constants.nbytes)
        self._constants[:] = plan.constants
        self.plan = replace(plan, constants=self._constants)  # the caller's can go
        self._rows_address = self._rows.ctypes.data
        self._constants_address = self._constants.ctypes.data
        self._run = code.addresses[NAME]

    def order(
        self,
        memory: Memory,
        images: np.ndarray,
        result: np.ndarray,
        thread: int = 0,
        threads: int = 1,
        steps: slice = slice(None),
    ) -> tuple[int, ...]:
        """What a thread of a team is to do for one group: `images` [n, C, H, W], n at most the
        plan's. The arrays must live until it is done.

        Steps can be run one after the other by several orders, as long as the barrier of `memory`
        is left as it is in between."""
        first, last, _ = steps.indices(len(self._rows))
        size = self._rows.strides[0]
        return (
            self._run,
            *(self._rows_address + first * size, last - first, size),
            *(memory.arena_address, self._constants_address, memory.scratch_addresses[thread]),
            *(images.ctypes.data, result.ctypes.data, memory.barrier_address),
            *(thread, threads, len(images)),
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
        self.barrier[1] = yield_address()
        self.arena_address = self.arena.ctypes.data
        self.scratch_addresses = [area.ctypes.data for area in self.scratch]
        self.barrier_address = self.barrier.ctypes.data


class Workshop:
    """A team and its memory; lent to one call at a time."""

    def __init__(self, threads: int, code: Code) -> None:
        self.team = Team(threads, code)
        self._memories: weakref.WeakKeyDictionary[Program, dict[int, list[Memory]]]
        self._memories = weakref.WeakKeyDictionary()

    def memories(self, program: Program, count: int, threads: int) -> list[Memory]:
        """`count` memories of the program's, for `threads` threads each; made when first used."""
        found = self._memories.setdefault(program, {}).setdefault(threads, [])
        while len(found) < count:
            found.append(Memory(program.plan, threads))
        return found[:count]


def count_beside(batch: int, images: int, threads: int) -> int:
    """Of `batch` images, how many go side by side: in groups of `images`, each on a thread of its
    own, as many groups on every thread. No thread waits for another."""
    return batch // images // threads * threads * images


class Runner:
    """Runs batches on programs, from any number of threads at once."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._open()

    def _open(self) -> None:
        self._idle: list[Workshop] = []
        self._room = Turnstile(max(1, default_threads() // self.threads))
        self._process = os.getpid()

    def _take(self, code: Code) -> Workshop:
        try:
            return self._idle.pop()
        except IndexError:
            return Workshop(self.threads, code)

    def run(
        self,
        program: Program,
        images: np.ndarray,
        result: np.ndarray,
        beside: Program | None = None,
    ) -> None:
        """As many groups as threads go side by side (see `count_beside`), the rest one by one, all
        threads working together.

        Args:
            program: for groups that all threads work on together.
            images: [N, C, H, W] contiguous fp32; `result` [N, ...] likewise.
            beside: for groups side by side, by default `program`.
        """
        beside = beside or program
        count = count_beside(len(images), beside.plan.images, self.threads)
        if self._process != os.getpid():
            self._open()  # forked: the teams' threads are not here, nor who had a place
        with self._room.place():  # a workshop is for one call at a time; the others wait
            workshop = self._take(program.code)
            try:
                step = self.threads * beside.plan.images * AT_ONCE
                for start in range(0, count, step):
                    part = slice(start, min(start + step, count))
                    self._run_beside(workshop, beside, images[part], result[part])
                for start in range(count, len(images), program.plan.images):
                    group = slice(start, start + program.plan.images)
                    self._run_together(workshop, program, images[group], result[group])
            finally:
                self._idle.append(workshop)

    def _run_beside(
        self, workshop: Workshop, program: Program, images: np.ndarray, result: np.ndarray
    ) -> None:
        size = program.plan.images
        memories = workshop.memories(program, self.threads, 1)
        orders: list[list[tuple[int, ...]]] = [[] for _ in memories]
        for number, start in enumerate(range(0, len(images), size)):
            group = slice(start, start + size)
            thread = number % self.threads
            orders[thread].append(program.order(memories[thread], images[group], result[group]))
        workshop.team.run([np.array(own, np.int64) for own in orders])

    def _run_together(
        self, workshop: Workshop, program: Program, images: np.ndarray, result: np.ndarray
    ) -> None:
        (memory,) = workshop.memories(program, 1, self.threads)
        memory.barrier[0] = 0
        workshop.team.run(
            [
                np.array([program.order(memory, images, result, thread, self.threads)], np.int64)
                for thread in range(self.threads)
            ]
        )
