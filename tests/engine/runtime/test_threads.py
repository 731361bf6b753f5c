"""Teams: tasks reach every thread, asleep or not, and threads end with their team."""

import ctypes
import os
import signal
import threading
import time
from collections import defaultdict

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.threads import TASK_FIELDS
from strzoo.engine.hardware import host_hardware
from strzoo.engine.runtime import threads as module
from strzoo.engine.runtime.threads import Team
from strzoo.engine.storage.machine_code import compile_kernels
from strzoo.errors import StrzooError

# What a task calls, as `run_plan` is: addresses and numbers.
KIND = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * (TASK_FIELDS - 1))


@pytest.fixture(scope="module")
def code():
    return compile_kernels([], host_hardware())


class Notes:
    """A function for tasks that notes the last of their numbers, by the thread that calls it.

    The caller of a team that has `wanted` something noted waits for that before it ends its last
    task, so that no worker comes too late.
    """

    def __init__(self):
        self.found: defaultdict[int, list[int]] = defaultdict(list)
        self._caller, self._wanted = threading.get_ident(), 0
        self._function = KIND(self._note)
        self._address = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def _note(self, *given):
        thread = threading.get_ident()
        if given[-1] >= 0:
            self.found[thread].append(given[-1])
        elif thread == self._caller:
            end = time.monotonic() + 10
            while sum(map(len, self.found.values())) < self._wanted and time.monotonic() < end:
                time.sleep(0)

    def awaiting(self, count, *numbers):
        """Tasks of the caller, the last of which waits until `count` more numbers are noted."""
        self._wanted = sum(map(len, self.found.values())) + count
        return self.tasks(*numbers, -1)

    def tasks(self, *numbers):
        rows = np.zeros((len(numbers), TASK_FIELDS), np.int64)
        rows[:, 0], rows[:, -1] = self._address, numbers
        return rows


def workers_of(team):
    return [t for t in threading.enumerate() if t.native_id in team._affinity._workers]


def test_each_thread_carries_out_its_own_orders_in_turn(code):
    team, notes = Team(3, code), Notes()
    expected: defaultdict[int, list[int]] = defaultdict(list)
    idents = [threading.get_ident(), *(worker.ident for worker in workers_of(team))]
    for turn in range(40):
        if turn % 4 == 0:
            time.sleep(0.003)  # the workers have gone to sleep
        numbers = [[100 * turn + 10 * thread + n for n in range(thread)] for thread in range(3)]
        first = notes.awaiting(sum(map(len, numbers)), *numbers[0])
        team.run([first, *(notes.tasks(*own) for own in numbers[1:])])
        for ident, own in zip(idents, numbers, strict=True):
            expected[ident] += own
            assert notes.found[ident] == expected[ident]


def test_a_team_of_one_needs_no_other_thread(code):
    others = set(threading.enumerate())  # those of earlier tests may end at any time
    team, notes = Team(1, code), Notes()
    team.run([notes.tasks(7, 8)])
    assert notes.found == {threading.get_ident(): [7, 8]}
    assert set(threading.enumerate()) <= others


def test_what_a_worker_has_not_begun_when_the_caller_is_done_is_left_out(code):
    team, notes = Team(2, code), Notes()
    (worker,) = workers_of(team)
    for number in range(200):  # the caller has nothing to do
        team.run([notes.tasks(), notes.tasks(number)])
    noted = list(notes.found[worker.ident])
    assert noted == sorted(set(noted))  # each once at most, in turn
    team.run([notes.tasks(), notes.tasks()])  # a call that offers nothing waits for nothing
    team.run([notes.awaiting(1), notes.tasks(1000)])  # and none of those left out comes later
    assert notes.found[worker.ident] == [*noted, 1000]


def test_shared_tasks_are_run_once_by_whoever_is_free(code):
    team, notes = Team(3, code), Notes()
    for turn in range(20):
        if turn % 4 == 0:
            time.sleep(0.003)
        numbers = list(range(30 * turn, 30 * turn + 30))
        team.share([notes.tasks(*numbers)] * 3)
        found = sorted(number for own in notes.found.values() for number in own)
        assert found == list(range(30 * turn + 30))
    assert all(own == sorted(own) for own in notes.found.values())


def test_orders_for_fewer_threads_are_refused_not_repeated(code):
    team, notes = Team(2, code), Notes()
    with pytest.raises(ValueError, match="shorter"):
        team.run([notes.tasks(1)])
    assert not notes.found


def test_threads_end_with_their_team(code):
    team = Team(3, code)
    workers = workers_of(team)
    assert len(workers) == 2
    time.sleep(0.003)
    del team
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_where_the_system_starts_no_more_threads_those_that_run_end(code, monkeypatch):
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_two(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(StrzooError, match="no more than 2 threads beside this one, 9 are asked"):
        Team(9, code)
    for worker in started:
        worker.join(10)
        assert not worker.is_alive()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_a_signal_does_not_wake_a_worker_for_good(code):
    team, notes = Team(2, code), Notes()
    (worker,) = workers_of(team)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        for number in range(20):
            time.sleep(0.002)
            signal.pthread_kill(worker.ident, signal.SIGUSR1)
            team.run([notes.awaiting(1), notes.tasks(number)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert notes.found[worker.ident] == list(range(20))


def test_what_was_interrupted_while_timed_is_finished(code, monkeypatch):
    team, notes = Team(2, code), Notes()
    (worker,) = workers_of(team)
    moments = iter([0.0, 1.5])

    def interrupted():
        try:
            return next(moments)
        except StopIteration:
            raise KeyboardInterrupt from None

    with monkeypatch.context() as patch:
        patch.setattr(module.time, "perf_counter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            team.time([notes.awaiting(5, 1, 2, 3), notes.tasks(5, 6)])
    # The second was carried out before the interruption: none is left out, none repeated.
    assert notes.found == {threading.get_ident(): [1, 2, 3], worker.ident: [5, 6]}
    assert len(team.time([notes.tasks(1, 2), notes.tasks(3)])) == 2


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="threads cannot be placed here",
)
def test_workers_keep_off_the_core_of_their_caller(code):
    team, notes = Team(2, code), Notes()
    (worker,) = team._affinity._workers
    cores = os.sched_getaffinity(0)
    try:
        for core in sorted(cores)[:2] * 2:
            os.sched_setaffinity(0, {core})
            team.run([notes.awaiting(1), notes.tasks(core)])
            assert os.sched_getaffinity(worker) == cores - {core}
    finally:
        os.sched_setaffinity(0, cores)
