"""Ctrl-C that is not lost: a library that meets it while importing may swallow the exception."""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Interrupts:
    """Whether Ctrl-C was pressed: a call raises KeyboardInterrupt then, `is_set` says so."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def __call__(self) -> None:
        if self.is_set():
            raise KeyboardInterrupt

    def is_set(self) -> bool:
        return self.seen.is_set()

    def before(self, work: Callable[Given, Result]) -> Callable[Given, Result]:
        """`work` that imports torch first, where interrupts get lost, and then looks for one."""

        def checked(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            importlib.import_module("strzoo.checkpoint")
            self()
            return work(*args, **kwargs)

        return checked


@contextlib.contextmanager
def remembered_interrupts() -> Iterator[Interrupts]:
    """Yield what to call or ask now and then in long work, for an interrupt that came before and
    did not end the work. Outside the main thread there is none."""
    check = Interrupts()

    def handle(number: int, frame: FrameType | None) -> None:
        check.seen.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
