"""Rows of long cells (paths, hashes): a table where it fits, otherwise a line for each cell."""

from __future__ import annotations

from collections.abc import Sequence

import click

from strzoo.cli.output import console, print_table, simple_table


def print_rows(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, title: str | None = None
) -> None:
    """Print the rows so that no cell is cut, however narrow the terminal is.

    Args:
        left: how many columns, from the left, are text; the others are numbers.
    """
    columns = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    # A column has two spaces and a line, the table one line more. A bracket could be markup.
    fits = sum(columns) + 3 * len(columns) + 1 <= console().width
    markup = any("[" in cell for row in ((title or "",), *rows) for cell in row)
    if fits and not markup:
        print_table(simple_table(header, rows, left=left, title=title))
        return
    if title:
        click.echo(title)
    names = max(len(name) for name in header)
    for row in rows:
        click.echo()
        for name, cell in zip(header, row, strict=True):
            click.echo(f"{name:<{names}}  {cell}")
