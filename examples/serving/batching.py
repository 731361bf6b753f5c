"""Batcher: single inputs from many callers become batches for threads that run a model."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

Item = tuple[np.ndarray, "Future[np.ndarray]"]


class Batcher:
    """Collects inputs and runs them together.

    A thread takes the first input that waits, then what else comes within `wait` seconds, until
    the batch is full. While it computes, the next batch gathers: under load batches are full and
    nobody waits for the clock. A result whose future was cancelled is not computed.

    Args:
        run: takes a batch [N, ...] and gives N results; called by `callers` threads at once.
        most: inputs in a batch.
        wait: seconds that the first of a batch waits for others.
        callers: threads.
    """

    def __init__(
        self, run: Callable[[np.ndarray], np.ndarray], most: int, wait: float, callers: int = 1
    ) -> None:
        self._run, self._most, self._wait = run, most, wait
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}") for number in range(callers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, value: np.ndarray) -> Future[np.ndarray]:
        """The result for one input, once its batch has run."""
        future: Future[np.ndarray] = Future()
        self._items.put((value, future))
        return future

    @property
    def alive(self) -> bool:
        """Whether all threads are there."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Run what waits, then end the threads. Nothing may be submitted from here on."""
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            batch, last = self._collect()
            live = [item for item in batch if item[1].set_running_or_notify_cancel()]
            if live:
                self._compute(live)
            if last:
                return

    def _collect(self) -> tuple[list[Item], bool]:
        """A batch, and whether it is this thread's last."""
        batch: list[Item] = []
        until = None
        while len(batch) < self._most:
            remaining = None if until is None else max(0.0, until - time.monotonic())
            try:
                item = self._items.get(timeout=remaining)
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
            until = until or time.monotonic() + self._wait
        return batch, False

    def _compute(self, batch: list[Item]) -> None:
        try:
            results = self._run(np.stack([value for value, _ in batch]))
        except Exception as error:  # the callers are told; the thread goes on
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
