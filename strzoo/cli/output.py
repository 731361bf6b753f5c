"""How the commands print: JSON or a table to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 400  # a pipe has no width; wide enough that no cell is cut


def print_json(document: Any) -> None:
    """One JSON document on stdout. Values that JSON lacks are spelled as text."""
    click.echo(json.dumps(document, indent=2, default=str))


def console(*, err: bool = False) -> Console:
    """A rich console on stdout (or stderr): colours on a terminal, plain in a pipe."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, width=None if stream.isatty() else PIPE_WIDTH, highlight=False)


def print_table(table: Table) -> None:
    """A rich table on stdout, without trailing spaces in a pipe."""
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
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


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
    from rich.table import Table

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
    table = Table(title=title, title_justify="left", header_style="bold")
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
