"""How a training run looks: a live table and bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from strzoo.cli.output import live_console, say, simple_table
from strzoo.spelling import printable
from strzoo.training.results import EpochDone, Event, RunStarted, StepDone

if TYPE_CHECKING:
    from rich.console import RenderableType

    from strzoo.training.config import TrainConfig

HEADER = ("epoch", "loss", "train top-1 %", "top-1 %", "top-5 %", "sparsity %", "rate", "img/s")
_ROWS = 12  # epochs that the live table shows


@contextlib.contextmanager
def show_training(config: TrainConfig, *, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """The callback that shows a run on stderr."""
    if quiet:
        yield lambda event: None
        return
    screen = live_console()
    if screen is None:
        yield _print_line
        return
    from rich.live import Live

    with Live(console=screen, auto_refresh=False) as live:
        view = _View(config)

        def show(event: Event) -> None:
            if isinstance(event, RunStarted):
                for line in _opening(event):
                    live.console.print(printable(line))
            live.update(view.draw(event), refresh=True)

        yield show


def _opening(event: RunStarted) -> list[str]:
    lines = [
        f"training on {event.data}; {event.device}, {event.precision}, {event.processes} "
        f"process{'es' if event.processes > 1 else ''}; files in {event.folder}"
    ]
    if event.resumed is not None:
        lines.append(f"going on from {event.resumed}: epoch {event.epoch + 1}, step {event.step}")
    return lines + [f"note: {note}" for note in event.notes]


def _print_line(event: Event) -> None:
    if isinstance(event, RunStarted):
        for line in _opening(event):
            say(line, err=True)
    elif isinstance(event, StepDone):
        say(
            f"epoch {event.epoch} step {event.step}/{event.steps} loss {event.loss:.4f} "
            f"top-1 {event.top1:.2f} % rate {event.learning_rate:.3g} "
            f"{event.images_per_second:.1f} images/s",
            err=True,
        )
    else:
        r = event.record
        say(
            f"epoch {r.epoch} done: top-1 {r.top1:.2f} % top-5 {r.top5:.2f} % loss {r.loss:.4f} "
            f"sparsity {r.sparsity:.2f} %{' (best)' if event.best else ''}",
            err=True,
        )


class _View:
    """The epochs so far and where the present one is."""

    def __init__(self, config: TrainConfig) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._config = config
        self._rows: list[tuple[str, ...]] = []
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("steps"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
        )  # fmt: skip
        self._task = self._bar.add_task("training", total=None, now="")
        self._steps = 0

    def draw(self, event: Event) -> RenderableType:
        from rich.console import Group

        if isinstance(event, RunStarted):
            self._steps = event.steps
            done = event.epoch * event.steps + event.step
            self._bar.update(self._task, total=event.epochs * event.steps, completed=done)
        elif isinstance(event, StepDone):
            speed = f"{event.images_per_second:.0f} img/s"
            now = f"loss {event.loss:.3f}  top-1 {event.top1:.2f} %  {speed}"
            done = (event.epoch - 1) * self._steps + event.step
            self._bar.update(self._task, completed=done, now=now)
        elif isinstance(event, EpochDone):
            r = event.record
            self._rows.append(
                (
                    f"{r.epoch}/{self._config.epochs}", f"{r.train_loss:.3f}",
                    f"{r.train_top1:.2f}", f"{r.top1:.2f}{'*' if event.best else ' '}",
                    f"{r.top5:.2f}", f"{r.sparsity:.2f}", f"{r.learning_rate:.3g}",
                    f"{r.images_per_second:.0f}",
                )
            )  # fmt: skip
        title = f"{self._config.recipe} (* best so far)"
        return Group(simple_table(HEADER, self._rows[-_ROWS:], left=0, title=title), self._bar)
