"""Record: the command line, the tables and the file that all benchmarks have alike."""

from __future__ import annotations

import argparse
import datetime
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness import ROOT
from harness.machine import describe_machine, find_commit, find_load, find_versions
from harness.results import Cell, Column, Results, Table, write_results

RESULTS = ROOT / "benchmarks" / "results"
TRIED = ROOT / "bench-results"
_JSON = "where the results go [default: benchmarks/results/ if all that sizes the run has its "
_JSON += "default, else bench-results/]"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help=_JSON)
    return parser


class Record:
    """Prints tables while they grow, and writes them as JSON at the end.

    Args:
        name: of the file; its options below `kinds` are appended.
        about: what is measured, for the head of its section.
        packages: whose versions count.
        kinds: options that choose what is measured; other values than the default make another
            file, not a smaller run.
        free: options that change nothing of what is measured, such as where files are kept.
    """

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        name: str,
        title: str,
        about: str = "",
        *,
        packages: Iterable[str] = (),
        kinds: Sequence[str] = (),
        free: Sequence[str] = (),
    ) -> None:
        name = "_".join([name, *(str(getattr(options, kind)) for kind in kinds)])
        left = {"json", *kinds, *free}
        whole = all(
            value == parser.get_default(key)
            for key, value in vars(options).items()
            if key not in left
        )
        self.path: Path = options.json or (RESULTS if whole else TRIED) / f"{name}.json"
        self.missed: list[str] = []
        self._load = find_load()
        self.results = Results(
            title,
            about,
            [_spell_command()],
            datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            find_commit(),
            describe_machine(),
            find_versions(packages),
        )

    def table(self, columns: Sequence[Column], title: str = "") -> TableRecord:
        """Begin a table."""
        table = Table(list(columns), title=title)
        self.results.tables.append(table)
        return TableRecord(table, self)

    def say(self, note: str) -> None:
        """A paragraph below the tables."""
        print(f"\n{note}", flush=True)
        self.results.notes.append(note)

    def miss(self, bar: str) -> None:
        """Enter that a bar was missed: it is said at the end, and the exit code is 1."""
        self.missed.append(bar)

    def finish(self) -> int:
        """Write the file; returns the exit code."""
        if self.missed:
            self.say(f"Missed: {'; '.join(self.missed)}.")
        self.results.load = f"load {self._load:.1f} at the start, {find_load():.1f} at the end"
        write_results(self.path, self.results)
        print(f"\n{self.results.measured()}\nwrote {self.path}", flush=True)
        return int(bool(self.missed))


class TableRecord:
    """A table that is printed row by row."""

    def __init__(self, table: Table, record: Record) -> None:
        self._table, self._record = table, record

    def add(self, *cells: Cell) -> None:
        """Enter a row. A figure that is not a number becomes "-"."""
        row = [_tidy(cell) for cell in cells]
        if not self._table.rows:
            title = [f"### {self._table.title}", ""] if self._table.title else []
            print("\n" + "\n".join([*title, *self._table.head_lines()]))
        self._table.rows.append(row)
        print(self._table.line(row), flush=True)

    def say(self, note: str) -> None:
        """A paragraph below the table."""
        print(f"\n{note}", flush=True)
        self._table.notes.append(note)

    def judge(
        self, what: str, value: float, *, least: float | None = None, most: float | None = None
    ) -> None:
        """Enter it below the table if a figure misses its bar."""
        if least is not None and value < least:
            self._record.miss(f"{what} is {value:.4g}, less than {least:g}")
        if most is not None and value > most:
            self._record.miss(f"{what} is {value:.4g}, more than {most:g}")


def _tidy(cell: Cell) -> Cell:
    """A figure to six digits, which is more than any measurement has."""
    if not isinstance(cell, float):
        return cell
    return float(f"{cell:.6g}") if math.isfinite(cell) else "-"


def _spell_command() -> str:
    """The command line as one writes it in the checkout."""
    threads = os.environ.get("OMP_NUM_THREADS")
    arguments = [a for a in sys.argv[1:] if not a.startswith("--json=")]
    if "--json" in arguments:
        at = arguments.index("--json")
        del arguments[at : at + 2]
    words = [f"OMP_NUM_THREADS={threads}"] if threads else []
    words += ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    return " ".join([*words, *(f'"{a}"' if " " in a else a for a in arguments)])
