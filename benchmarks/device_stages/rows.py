"""What a stage is told, and the rows in which it answers: one JSON object a line, at once."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, FAILS, UNMEASURED = "ok", "FAILS", "not measured"


@dataclass(frozen=True)
class Row:
    """One figure. `goal` is text such as "at least 0.9"; `verdict` is "ok", "FAILS", "not
    measured", or empty where there is no goal."""

    what: str
    value: str
    goal: str = ""
    verdict: str = ""


@dataclass
class Stage:
    """What a stage runs with.

    Args:
        device: "cpu" or "cuda".
        tiny: sizes that exercise every line in seconds, and say nothing about speed.
        workers: processes that decode.
        folder: for scratch files; gone afterwards.
        rows: the file that the rows go to.
        seconds: after which the stage will be ended.
    """

    device: str
    tiny: bool
    workers: int
    folder: Path
    rows: Path
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the stage is ended, less what writing takes."""
        return self.started + self.seconds - time.monotonic() - 2

    def say(self, what: str, value: Any, goal: str = "", verdict: str = "") -> None:
        """Enter a row, and print it."""
        row = Row(what, value if isinstance(value, str) else spell(value), goal, verdict)
        with open(self.rows, "a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
        print(f"{row.what}: {row.value} {row.goal} {row.verdict}".rstrip(), flush=True)

    def judge(
        self, what: str, value: float, *, least: float | None = None, most: float | None = None
    ) -> None:
        """Enter a figure and whether it meets its goal; a tiny run's says nothing."""
        bound = least if least is not None else most
        good = value >= least if least is not None else most is not None and value <= most
        word = "at least" if least is not None else "at most"
        verdict = "" if self.tiny else OK if good else FAILS
        self.say(what, value, f"{word} {bound:g}", verdict)

    def skip(self, what: str, reason: str) -> None:
        """Enter that something was not measured, and why."""
        self.say(what, reason, verdict=UNMEASURED)


def spell(value: float) -> str:
    """A figure to three or four digits."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def read_rows(path: Path) -> list[Row]:
    """The rows written so far; the last line may be broken off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(Row(**json.loads(line)))
        except ValueError:
            break
    return rows
