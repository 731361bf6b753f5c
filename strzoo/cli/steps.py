"""Show what a command of a few long steps is doing: on stderr, on a terminal only."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


@contextlib.contextmanager
def show_steps(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """The callback that shows the step and the seconds so far; a log line where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield lambda text: log.info("%s", text)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from strzoo.cli.output import console

    screen = console(err=True)
    screen.file = sys.stderr  # the terminal itself, also while a library's prints are caught
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda text: bars.update(task, description=text)
