"""Show what a command of a few long steps is doing: on stderr, on a terminal only."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from strzoo.cli.output import live_console

log = logging.getLogger(__name__)


@contextlib.contextmanager
def show_steps(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """The callback that shows the step and the seconds so far; a log line where nobody looks."""
    screen = live_console(quiet=quiet)
    if screen is None:
        yield lambda text: log.info("%s", text)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    screen.file = sys.stderr  # the terminal itself, also while a library's prints are caught
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda text: bars.update(task, description=text)


@contextlib.contextmanager
def show_count(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """The callback (done, total) that draws a bar with rate and remaining time on a terminal."""
    screen = live_console(quiet=quiet)
    if screen is None:
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    screen.file = sys.stderr
    started = time.monotonic()
    with Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task(what, total=None, rate="")

        def draw(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bars.update(task, completed=done, total=total, rate=f"{rate:.1f}/s")

        yield draw
