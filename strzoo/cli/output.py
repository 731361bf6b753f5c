"""How the commands print: JSON or a table to stdout, everything else to stderr.

rich draws tables and bars. Where it is not installed, tables are plain text and there are no bars.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from strzoo.cli.tables import Table, fit, records
from strzoo.spelling import printable

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 1_000_000  # a pipe has no width: nothing wraps there, and no column is left out


def say(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may hold names from files of strangers, on stdout or stderr."""
    click.echo(printable(str(text)), err=err, nl=nl)


def print_json(document: Any) -> None:
    """One JSON document on stdout. Values that JSON lacks are spelled as text."""
    click.echo(json.dumps(document, indent=2, default=str))


def console(*, err: bool = False, width: int | None = None) -> Console:
    """A rich console on stdout (or stderr): colours on a terminal, plain in a pipe.

    Texts are shown as they are: a bracket is no markup, a colon no emoji.
    """
    from rich.console import Console

    return Console(stderr=err, width=width, highlight=False, markup=False, emoji=False)


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


def screen_width() -> int | None:
    """Cells of the terminal that shows stdout; None if it is no terminal."""
    if not sys.stdout.isatty():
        return None
    import shutil  # slow to import, and only a terminal needs it

    return shutil.get_terminal_size().columns


def print_table(table: Table, *, more: str = "") -> None:
    """A table on stdout in which no cell is cut, however narrow the terminal is.

    On a terminal, stderr names the columns that were left out, and `more`: what only the JSON
    document has.
    """
    width, table = screen_width(), table.printable()
    made, dropped = fit(table, width or _PIPE_WIDTH)
    if made is None:
        click.echo(records(table, width or _PIPE_WIDTH))
    elif not has_rich():
        click.echo(str(made))
    else:
        _draw(made, width)
    if width is None:
        return
    if dropped:
        click.echo(
            f"left out, the terminal is too narrow: {', '.join(dropped)} (--json has all)", err=True
        )
    if more:
        click.echo(f"only in --json: {more}", err=True)


def _draw(table: Table, width: int | None) -> None:
    """By rich, without trailing spaces in a pipe."""
    if table.title:  # rich would wrap it to the table's width
        click.echo(click.style(table.title, bold=True))
    screen = console(width=width or _PIPE_WIDTH)
    table = replace(table, title=None)
    if width is not None:
        screen.print(table)
        return
    with screen.capture() as captured:
        screen.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def simple_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    title: str | None = None,
    wrap: Collection[str] = (),
    optional: Sequence[str] = (),
    text: Collection[str] = (),
) -> Table:
    """A table whose first `left` columns are text and the others numbers; see `Table`."""
    return Table(tuple(header), tuple(rows), left, title, wrap=wrap, optional=optional, text=text)
