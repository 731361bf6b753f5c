"""The progress bar of a download: on stderr, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from strzoo.cli.output import live_console

if TYPE_CHECKING:
    from strzoo.downloads.transfer import Progress


@contextlib.contextmanager
def download_bar(filename: str, *, quiet: bool) -> Iterator[Progress | None]:
    """The callback that draws bytes, rate and remaining time; None where nobody looks."""
    screen = live_console(quiet=quiet)
    if screen is None:
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as bars:
        task = bars.add_task(filename, total=None)

        def draw(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total)

        yield draw


def spell_bytes(count: int) -> str:
    """A size as people read it, in decimal units: 17.1 MB."""
    if count < 1000:
        return f"{count} B"
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
