"""How the commands print: JSON or a table to stdout, everything else to stderr.

rich draws tables and bars. Where it is not installed, tables are plain text and there are no bars.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

PIPE_WIDTH = 400  # a pipe has no width; wide enough that no cell is cut


def print_json(document: Any) -> None:
    """One JSON document on stdout. Values that JSON lacks are spelled as text."""
    click.echo(json.dumps(document, indent=2, default=str))


def console(*, err: bool = False) -> Console:
    """A rich console on stdout (or stderr): colours on a terminal, plain in a pipe."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, width=None if stream.isatty() else PIPE_WIDTH, highlight=False)


def live_console(*, quiet: bool = False) -> Console | None:
    """A console on stderr for a bar; None where nobody looks, or rich is not installed."""
    if quiet or not sys.stderr.isatty() or not has_rich():
        return None
    return console(err=True)


def has_rich() -> bool:
    """Whether rich is installed."""
    try:
        return importlib.util.find_spec("rich") is not None
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True)
class Table:
    """Text in columns: the first `left` ones are text and the others numbers. With `totals` the
    last row is set apart."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    title: str | None = None
    totals: bool = False

    def __rich__(self) -> RichTable:
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", header_style="bold")
        for index, name in enumerate(self.header):
            justify = "left" if index < self.left else "right"
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        body = self.rows[:-1] if self.totals else self.rows
        for row in body:
            table.add_row(*row)
        if self.totals:
            table.add_section()
            table.add_row(*self.rows[-1], style="bold")
        return table

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]

        def spell(line: Sequence[str]) -> str:
            cells = (
                cell.ljust(width) if index < self.left else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            return "  ".join(cells).rstrip()

        return "\n".join([*([self.title] if self.title else []), *map(spell, lines)])


def print_table(table: Table | RichTable) -> None:
    """A table on stdout, without trailing spaces in a pipe."""
    if not has_rich():
        click.echo(str(table))
        return
    screen = console()
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as captured:
        screen.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def simple_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, title: str | None = None
) -> Table:
    """A table whose first `left` columns are text and the others numbers."""
    return Table(tuple(header), tuple(rows), left, title)


_NARROWEST = 12  # columns of text wrap, but no further than this


def print_fitted(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Collection[str] = (),
    wrap: Collection[str] = (),
    optional: Sequence[str] = (),
    title: str | None = None,
) -> None:
    """A table on stdout in which no cell is cut.

    The columns `text` and `wrap` are text, the others numbers; those in `wrap` may take several
    lines. On a terminal that is still too narrow the columns in `optional` are left out, the first
    first, which stderr says.
    """
    if not has_rich():
        texts = [name in text or name in wrap for name in header]
        click.echo(str(Table(header, rows, [*texts, False].index(False), title)))
        return
    from rich.table import Table as RichTable

    width = console().width
    natural = {n: max(len(n), *(len(row[i]) for row in rows)) for i, n in enumerate(header)}
    least = {n: min(natural[n], _NARROWEST) if n in wrap else natural[n] for n in header}
    kept, dropped = list(header), []
    for name in optional:
        # Each column has two spaces and a line, and the table one line more.
        if sum(least[n] + 3 for n in kept) + 1 <= width:
            break
        if name in kept:
            kept.remove(name)
            dropped.append(name)
    table = RichTable(title=title, title_justify="left", header_style="bold")
    for name in kept:
        is_text = name in text or name in wrap
        table.add_column(
            name,
            justify="left" if is_text else "right",
            no_wrap=name not in wrap,
            min_width=least[name],
        )
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        table.add_row(*(cells[name] for name in kept))
    print_table(table)
    if dropped:
        click.echo(
            f"left out, the terminal is too narrow: {', '.join(dropped)} (--json has all)", err=True
        )
