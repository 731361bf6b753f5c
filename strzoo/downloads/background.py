"""Hash and sync beside the transfer, so that its own safety does not slow a download down."""

from __future__ import annotations

import hashlib
import os
import queue
import threading

_SYNC_STEP = 8 << 20  # bytes written between two syncs
_sync_data = getattr(os, "fdatasync", os.fsync)


class BackgroundHash:
    """SHA-256 of the blocks given to `update`, computed in a thread.

    At most `depth` blocks wait; then `update` waits too, which bounds the memory.
    """

    def __init__(self, depth: int = 32) -> None:
        self._hasher = hashlib.sha256()
        self._blocks: queue.Queue[bytes | None] = queue.Queue(depth)
        self._thread: threading.Thread | None = None

    def update(self, block: bytes) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="strzoo-hash")
            self._thread.start()
        self._blocks.put(block)

    def hexdigest(self) -> str:
        """The hash of everything so far; more may follow."""
        self.close()
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Finish what waits and end the thread."""
        if self._thread is not None:
            self._blocks.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (block := self._blocks.get()) is not None:
            self._hasher.update(block)


class BackgroundSync:
    """Has the disk take written bytes early, so that the sync at the end has little to do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unsynced = 0
        self._wake = threading.Event()
        self._closed = False
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def wrote(self, count: int) -> None:
        """Count `count` more bytes written to the descriptor."""
        self._unsynced += count
        if self._unsynced < _SYNC_STEP:
            return
        self._unsynced = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="strzoo-sync")
            self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """End the thread; call it before the descriptor is closed."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """Close, then sync what is left.

        Raises:
            OSError: this sync or an earlier one failed. The system reports a failed write once
                only, so an earlier failure must not be lost.
        """
        self.close()
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closed:
                return
            try:
                _sync_data(self._descriptor)
            except OSError as error:
                self._error = error
                return
