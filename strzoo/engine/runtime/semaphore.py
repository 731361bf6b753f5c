"""A semaphore that serves its waiting threads in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairSemaphore:
    """At most `count` threads hold it at a time.

    A thread that releases it passes it on to the thread that has waited longest. A plain semaphore
    would be taken again by a thread that calls in a loop before a waiting one has woken up.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the semaphore during a `with` block."""
        self._acquire()
        try:
            yield
        finally:
            self._release()

    def _acquire(self) -> None:
        mine = threading.Lock()
        mine.acquire()
        try:
            with self._lock:
                if self._free:  # then no thread waits
                    self._free -= 1
                    return
                self._waiting.append(mine)
            mine.acquire()
        except BaseException:
            # If the interruption came when the semaphore had been passed on, pass it on again.
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            if not mine.locked():
                self._release()
            raise

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
