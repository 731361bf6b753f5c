"""Running programs on batches. One model may be called from many threads at once."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from strzoo.engine.codegen import blocks
from strzoo.engine.hardware import default_threads
from strzoo.engine.runtime.attendance import Attendance
from strzoo.engine.runtime.memory import ALIGNMENT, aligned
from strzoo.engine.runtime.semaphore import FairSemaphore
from strzoo.engine.runtime.threads import Code, Team, yield_address
from strzoo.errors import StrzooError

if TYPE_CHECKING:
    from strzoo.engine.lowering.plan import Plan

# Where a task names them.
ARENA, SCRATCH, IMAGES, RESULT, THREADS, COUNT = 4, 6, 7, 8, 11, 12
AT_ONCE = 32  # groups of each thread in one native call; signals are handled between calls


class Program:
    """A plan with its machine code, which can run in any `Memory` made for the plan."""

    def __init__(self, plan: Plan, code: Code) -> None:
        self.code = code
        self._rows = plan.rows.copy()
        self._rows[:, 0] = [code.addresses[kernel.name] for kernel in plan.kernels]
        self._constants = plan.constants
        if self._constants.ctypes.data % ALIGNMENT:
            self._constants = aligned(plan.constants.nbytes)
            self._constants[:] = plan.constants
        self.plan = replace(
            plan, constants=self._constants
        )  # so that the caller's copy can be freed
        self._rows_address = self._rows.ctypes.data
        self._constants_address = self._constants.ctypes.data
        self._run = code.addresses[blocks.NAME]

    def task(
        self,
        memory: Memory,
        images: np.ndarray,
        result: np.ndarray,
        thread: int = 0,
        threads: int = 1,
        instructions: slice = slice(None),
    ) -> tuple[int, ...]:
        """The task of one thread of a team for one group of images.

        Args:
            memory: that the group's run works in.
            images: [n, C, H, W] fp32, n at most the plan's images.
            result: [n, ...] fp32. Both arrays must live until the task is done.
            thread: number of the thread; `threads` share the group.
            instructions: part of the plan. Several tasks can run its parts one after the other if
                `memory` is not reset in between.
        """
        first, last, _ = instructions.indices(len(self._rows))
        size = self._rows.strides[0]
        return (
            self._run,
            *(self._rows_address + first * size, last - first, size),
            *(memory.arena_address, self._constants_address, memory.scratch_addresses[thread]),
            *(images.ctypes.data, result.ctypes.data, memory.block_address),
            *(thread, threads, len(images)),
        )

    def __len__(self) -> int:
        """The number of instructions."""
        return len(self._rows)


class Memory:
    """The memory that one run at a time works in: arena, scratch memory per thread, and the block
    in which threads tell each other what is done (`codegen.blocks`)."""

    def __init__(self, plan: Plan, threads: int) -> None:
        try:
            self.arena = aligned(plan.arena)
            self.scratch = [aligned(plan.scratch) for _ in range(threads)]
        except (MemoryError, OSError, OverflowError, ValueError) as error:
            raise StrzooError(
                f"the model works in {plan.arena + threads * plan.scratch} bytes of memory, which "
                "the system does not give; use smaller images, or free some memory"
            ) from error
        self._block = aligned(blocks.block_bytes(threads)).view(np.int64)
        self._block[blocks.YIELD // 8] = yield_address()
        self._claims = self._block[blocks.THREAD // 8 :].reshape(threads, -1)
        self.arena_address = self.arena.ctypes.data
        self.scratch_addresses = [area.ctypes.data for area in self.scratch]
        self.block_address = self._block.ctypes.data

    def reset(self) -> None:
        """Before a run: nothing is done."""
        self._block[blocks.DONE // 8] = 0
        self._claims[:] = 0

    @property
    def waited(self) -> np.ndarray:
        """How often the caller yielded its core while it waited for each worker in the last run."""
        return self._claims[1:, blocks.WAITED // 8]


class GroupTasks:
    """The tasks of threads that work on one group of images together. They are made once: from
    group to group only the arrays change.

    Args:
        memory: that they work in.
        threads: of the team.
    """

    def __init__(self, program: Program, memory: Memory, threads: int) -> None:
        self.memory = memory
        none = np.zeros(0, np.float32)
        self._fields = np.array(
            [program.task(self.memory, none, none, n, threads) for n in range(threads)], np.int64
        )
        self._tasks = [self._fields[n : n + 1] for n in range(threads)]
        self._left_out = self._fields[:0]

    def take(
        self, images: np.ndarray, result: np.ndarray, present: Sequence[bool]
    ) -> list[np.ndarray]:
        """The tasks for `images` and `result`, which must live until they are done; none for a
        thread that is not present. The first always is; alone, it need not share out its work."""
        self._fields[:, THREADS] = len(present) if any(present[1:]) else 1
        self._fields[:, IMAGES] = images.ctypes.data
        self._fields[:, RESULT] = result.ctypes.data
        self._fields[:, COUNT] = len(images)
        return [
            task if here else self._left_out
            for task, here in zip(self._tasks, present, strict=True)
        ]


class ExecutionContext:
    """A team and its memory, used by one call at a time."""

    def __init__(self, threads: int, code: Code) -> None:
        self.team = Team(threads, code)
        self._memories: weakref.WeakKeyDictionary[Program, list[Memory]]
        self._memories = weakref.WeakKeyDictionary()
        self._groups: weakref.WeakKeyDictionary[Program, GroupTasks]
        self._groups = weakref.WeakKeyDictionary()
        self._attendances: weakref.WeakKeyDictionary[Program, Attendance]
        self._attendances = weakref.WeakKeyDictionary()

    def attendance(self, program: Program) -> Attendance:
        """Which workers take part when all threads work on one group; made when first used."""
        return self._attendances.setdefault(program, Attendance(self.team.threads - 1))

    def memories(self, program: Program) -> list[Memory]:
        """A memory for each thread that works on a group of its own; made when first used."""
        found = self._memories.setdefault(program, [])
        while len(found) < self.team.threads:
            found.append(Memory(program.plan, 1))
        return found

    def group_tasks(self, program: Program) -> GroupTasks:
        """The tasks of all threads for a group that they work on together; made when first used."""
        found = self._groups.get(program)
        if found is None:
            threads = self.team.threads
            alone = threads == 1
            memory = self.memories(program)[0] if alone else Memory(program.plan, threads)
            found = self._groups[program] = GroupTasks(program, memory, threads)
        return found


def count_concurrent(batch: int, images: int, threads: int) -> int:
    """How many of `batch` images run concurrently: in groups of `images`, each on one thread, as
    many as equal threads do in the same time. No thread waits for another before the end."""
    return batch // images // threads * threads * images


class Runner:
    """Runs batches on programs, from any number of threads at once."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._open()

    def _open(self) -> None:
        self._idle: list[ExecutionContext] = []
        self._free_cores = FairSemaphore(max(1, default_threads() // self.threads))
        self._process = os.getpid()

    def _acquire_context(self, code: Code) -> ExecutionContext:
        try:
            return self._idle.pop()
        except IndexError:
            return ExecutionContext(self.threads, code)

    def run(
        self,
        program: Program,
        images: np.ndarray,
        result: np.ndarray,
        concurrent: Program | None = None,
    ) -> None:
        """Run concurrently as many groups as `count_concurrent` says, each on one thread, and the
        rest one by one on all threads.

        Args:
            program: for groups that all threads work on.
            images: [N, C, H, W] contiguous fp32.
            result: [N, ...] contiguous fp32; written.
            concurrent: for groups that run concurrently; by default `program`.
        """
        concurrent = concurrent or program
        count = count_concurrent(len(images), concurrent.plan.images, self.threads)
        if self._process != os.getpid():
            self._open()  # a forked process has none of its parent's threads
        with self._free_cores.held():
            context = self._acquire_context(program.code)
            try:
                step = self.threads * concurrent.plan.images * AT_ONCE
                for start in range(0, count, step):
                    part = slice(start, min(start + step, count))
                    self._run_concurrently(context, concurrent, images[part], result[part])
                for start in range(count, len(images), program.plan.images):
                    group = slice(start, start + program.plan.images)
                    self._run_cooperatively(context, program, images[group], result[group])
            finally:
                self._idle.append(context)

    def _run_concurrently(
        self, context: ExecutionContext, program: Program, images: np.ndarray, result: np.ndarray
    ) -> None:
        size = program.plan.images
        if self.threads == 1 and len(images) == size:  # whose tasks are made already
            self._run_cooperatively(context, program, images, result)
            return
        memories = context.memories(program)
        groups = [slice(start, start + size) for start in range(0, len(images), size)]
        first = np.array(
            [program.task(memories[0], images[group], result[group]) for group in groups], np.int64
        )
        tasks = [first]
        for memory in memories[1:]:
            tasks.append(first.copy())
            tasks[-1][:, ARENA] = memory.arena_address
            tasks[-1][:, SCRATCH] = memory.scratch_addresses[0]
        context.team.share(tasks)

    def _run_cooperatively(
        self, context: ExecutionContext, program: Program, images: np.ndarray, result: np.ndarray
    ) -> None:
        group, attendance = context.group_tasks(program), context.attendance(program)
        group.memory.reset()
        started = time.perf_counter()
        tasks = group.take(images, result, [True, *attendance.present(started)])
        context.team.run(tasks)
        ended, waited = time.perf_counter(), group.memory.waited.tolist()
        if any(waited):
            waited = [rests * context.team.rest_seconds for rests in waited]
        attendance.note(started, ended, waited)
