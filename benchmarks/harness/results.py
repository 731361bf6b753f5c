"""The results of a benchmark: one JSON schema, and the Markdown that is made of it.

A file `benchmarks/results/NAME.json` holds:

- `schema`: 1;
- `title`, `about`: the heading, and what was measured (Markdown);
- `command`: the command lines that measure it again;
- `date` (ISO, of the measurement) and `commit` (of the checkout; "+" after it if files differed);
- `machine`, `versions` (package -> version), `load`: what it was measured on, and beside what;
- `tables`: each with `title`, `columns` (`name`, `unit`, `format`: a Python format for its numbers,
  empty for text), `rows` (a cell is a number, a text or null) and `notes`;
- `notes`: paragraphs below the tables (Markdown).

What is not known is an empty text.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
Cell = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column; `format` is for its numbers, such as ".2f". A column without one is text."""

    name: str
    unit: str = ""
    format: str = ""

    @property
    def head(self) -> str:
        return f"{self.name} {self.unit}".strip()

    def spell(self, cell: Cell) -> str:
        """The cell as it stands in Markdown."""
        text = "" if cell is None else cell if isinstance(cell, str) else f"{cell:{self.format}}"
        return text.replace("|", "\\|")


@dataclass
class Table:
    """Columns and rows."""

    columns: list[Column]
    rows: list[list[Cell]] = field(default_factory=list)
    title: str = ""
    notes: list[str] = field(default_factory=list)

    def head_lines(self) -> list[str]:
        """The first two lines of the Markdown."""
        heads = " | ".join(column.head.replace("|", "\\|") for column in self.columns)
        return [f"| {heads} |", "|" + "|".join(self._rules()) + "|"]

    def _rules(self) -> Iterator[str]:
        for column in self.columns:
            yield "---:" if column.format else "---"

    def line(self, row: Sequence[Cell]) -> str:
        """A row of the Markdown."""
        cells = (column.spell(cell) for column, cell in zip(self.columns, row, strict=True))
        return f"| {' | '.join(cells)} |"

    def lines(self) -> list[str]:
        """The whole table, its title above and its notes below."""
        lines = [f"### {self.title}", ""] if self.title else []
        if self.rows:
            lines += [*self.head_lines(), *(self.line(row) for row in self.rows), ""]
        for note in self.notes:
            lines += [wrap(note), ""]
        return lines


@dataclass
class Results:
    """What a file holds; see the module."""

    title: str
    about: str = ""
    command: list[str] = field(default_factory=list)
    date: str = ""
    commit: str = ""
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    load: str = ""
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The section of RESULTS.md."""
        lines = [f"## {self.title}", ""]
        if self.about:
            lines += [wrap(self.about), ""]
        lines += [*(f"    {command}" for command in self.command), *([""] if self.command else [])]
        for table in self.tables:
            lines += table.lines()
        for note in self.notes:
            lines += [wrap(note), ""]
        if measured := self.measured():
            lines += [wrap(measured), ""]
        return lines

    def measured(self) -> str:
        """When, on what and beside what, in one line."""
        commit = f"at commit {self.commit}" if self.commit else ""
        machine = f"on {self.machine}" if self.machine else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        first = " ".join(filter(None, (self.date, commit, machine)))
        text = "; ".join(filter(None, (first, versions, self.load)))
        return f"Measured {text}." if text else ""


def wrap(paragraph: str) -> str:
    """In lines of at most 100 characters."""
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def write_results(path: Path, results: Results) -> None:
    """Write the file, whole or not at all; a row is one line of it."""
    document: dict[str, Any] = {"schema": SCHEMA, **asdict(results)}
    rows: list[str] = []
    for table in document["tables"]:
        for part in ("columns", "rows"):
            for number, row in enumerate(table[part]):
                rows.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
                table[part][number] = f"@{len(rows) - 1}@"
    text = json.dumps(document, indent=1, ensure_ascii=False)
    for number, row in enumerate(rows):
        text = text.replace(f'"@{number}@"', row, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read_results(path: Path) -> Results:
    """Read the file.

    Raises:
        ValueError: it is not of this schema.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError(f"the schema is not {SCHEMA}")
        tables = [
            Table(**{**table, "columns": [Column(**column) for column in table["columns"]]})
            for table in document.pop("tables")
        ]
        results = Results(**document, tables=tables)
        results.lines()  # every row fits its columns
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of results: {error!r}") from error
    return results
