from __future__ import annotations

import contextlib
import signal

import pytest

from strzoo.cli.interrupts import remembered_interrupts


def test_an_interrupt_that_was_swallowed_is_raised_at_the_next_check() -> None:
    before = signal.getsignal(signal.SIGINT)
    with remembered_interrupts() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):  # as a bare except in a library does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before
