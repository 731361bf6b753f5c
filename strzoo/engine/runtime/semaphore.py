"""Lets a few through at a time, the others in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Who leaves hands the place to who has waited longest. With a plain semaphore a thread that
    calls in a loop would take it again before a waiting one has woken up, every time."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    @contextmanager
    def place(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        mine = threading.Lock()
        mine.acquire()
        try:
            with self._lock:
                if self._free:  # then nobody waits
                    self._free -= 1
                    return
                self._waiting.append(mine)
            mine.acquire()
        except BaseException:
            # Interrupted while it waited, or just when its turn came: then it is the next one's.
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            if not mine.locked():
                self._leave()
            raise

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
