"""Islands: the parts of a network that onnxruntime runs. It is imported when the first one runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from strzoo.engine.ir.parts import MANY, Island
from strzoo.errors import StrzooError, install_advice

_EXTERNAL = b"location"  # of weights in another file
_SPIN = {
    "never": {"session.intra_op.allow_spinning": "0"},
    "within": {"session.force_spinning_stop": "1"},
    "after": {},
}  # fmt: skip


class Islands:
    """The sessions of a network's islands, opened when they are first needed.

    Args:
        islands: in execution order.
        threads: that one call uses.
        spin: when onnxruntime's threads wait for work by spinning, on cores that others may need:
            "never", "within" a run, or "after" it, too, for 60 ms.
    """

    def __init__(self, islands: Sequence[Island], threads: int, spin: str) -> None:
        self._islands, self._threads, self._spin = islands, threads, spin
        self._lock = threading.Lock()
        self._sessions: dict[int, Any] = {}
        self._process = os.getpid()

    def run(
        self,
        index: int,
        arrays: Mapping[str, np.ndarray],
        count: int | None,
        options: Any = None,
    ) -> dict[str, np.ndarray]:
        """The outputs of an island for `count` images; None where that is not a number of images.

        Args: `options` are those of `watched`, which may end the run.

        Raises:
            StrzooError: onnxruntime is not installed, refuses the inputs, or was ended.
        """
        island = self._islands[index]
        session = self._open(index)
        feeds = {}
        for feed in island.inputs:
            array = arrays[feed.value]
            feeds[feed.name] = array if feed.shape is None else array.reshape(-1, *feed.shape)
        for name, size in island.sizes:
            feeds[name] = np.where(size == MANY, count or 0, size)
        try:
            made = session.run(list(island.outputs), feeds, options)
        except Exception as error:  # onnxruntime's exceptions share no documented base class
            reason = " ".join(str(error).split())[:200]
            raise StrzooError(f"onnxruntime cannot run a part of the network: {reason}") from error
        return dict(zip(island.outputs, made, strict=True))

    def _open(self, index: int) -> Any:
        """The session of an island; a forked process has none of its parent's threads."""
        with self._lock:
            if self._process != os.getpid():
                # Their destructors would wait for threads that are not in this process.
                for session in self._sessions.values():
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
                self._sessions, self._process = {}, os.getpid()
            if index not in self._sessions:
                self._sessions[index] = _open_session(
                    self._islands[index].model, self._threads, _SPIN[self._spin]
                )
            return self._sessions[index]


@contextlib.contextmanager
def watched(patience: float) -> Iterator[Any]:
    """Options of runs of onnxruntime that end after that many seconds; None without it."""
    try:
        import onnxruntime
    except ImportError:
        yield None
        return

    options = onnxruntime.RunOptions()
    timer = threading.Timer(patience, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _open_session(model: bytes, threads: int, entries: dict[str, str]) -> Any:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise StrzooError(
            "parts of this network run in onnxruntime, which is not installed: "
            f"{install_advice('onnxruntime')}"
        ) from None
    from strzoo.onnx.files import parse_onnx
    from strzoo.onnx.sessions import open_session

    if _EXTERNAL in model:  # onnxruntime would open the files that it names
        parse_onnx(model, "a part of the network")
    return open_session(model, threads=threads, entries=entries)
