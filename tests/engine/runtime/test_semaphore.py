"""Turns: in the order of coming, and none is lost to an interruption."""

import signal
import threading
import time

import pytest

from strzoo.engine.runtime.semaphore import FairSemaphore


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_places_go_to_who_has_waited_longest():
    semaphore, order = FairSemaphore(1), []

    def enter(number):
        with semaphore.held():
            order.append(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(5)]
    with semaphore.held():
        for count, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(lambda count=count: len(semaphore._waiting) == count)
    with semaphore.held():  # comes after all of them
        order.append(5)
    assert order == [0, 1, 2, 3, 4, 5]


def test_as_many_as_there_are_places_are_inside_at_once():
    semaphore, inside, most = FairSemaphore(3), [], []

    def enter():
        for _ in range(50):
            with semaphore.held():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0001)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 3
    assert len(most) == 400


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_who_is_interrupted_while_waiting_keeps_no_place():
    semaphore = FairSemaphore(1)
    leave, held = threading.Event(), threading.Event()

    def hold():
        with semaphore.held():
            held.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt), semaphore.held():
            pytest.fail("there is no place")
    finally:
        signal.signal(signal.SIGALRM, before)
    leave.set()
    holder.join()
    for _ in range(3):
        with semaphore.held():
            pass
