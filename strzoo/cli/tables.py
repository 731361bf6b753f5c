"""Tables that fit the screen and cut no cell: columns wrap, then columns are left out and named,
then each row becomes lines of `name: value`.

rich draws the frame where it is installed; what fits is decided here, the same with and without.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from strzoo.spelling import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_NARROWEST = 12  # cells; columns of text wrap, but no further than this
_GAP = 2  # cells between the columns of a table without a frame
Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Text in columns: the first `left` ones, and those named in `wrap`, are text and the others
    numbers.

    Args:
        wrap: columns of words, which may take several lines on a narrow screen.
        optional: columns that a narrow screen may lack, the first first.
        totals: the last row is set apart.
    """

    header: Row
    rows: Sequence[Row]
    left: int = 1
    title: str | None = None
    totals: bool = False
    wrap: Collection[str] = ()
    optional: Sequence[str] = ()
    text: Collection[str] = ()
    framed: bool = True

    def is_text(self, index: int) -> bool:
        """Whether a column is aligned to the left."""
        name = self.header[index]
        return index < self.left or name in self.wrap or name in self.text

    def printable(self) -> Table:
        """The same with cells that may hold names from files of strangers."""
        title = None if self.title is None else printable(self.title)
        rows = [tuple(map(printable, row)) for row in self.rows]
        return replace(self, header=tuple(map(printable, self.header)), rows=rows, title=title)

    def __rich__(self) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable

        table = RichTable(
            title=self.title,
            title_justify="left",
            header_style="bold",
            box=box.HEAVY_HEAD if self.framed else None,
            padding=(0, 1) if self.framed else (0, _GAP, 0, 0),
            pad_edge=self.framed,
        )
        for index, name in enumerate(self.header):
            justify = "left" if self.is_text(index) else "right"
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
        widths = [max(map(cell_width, column)) for column in zip(*lines, strict=True)]

        def spell(line: Row) -> str:
            cells = [cell.split("\n") for cell in line]
            return "\n".join(
                (" " * _GAP)
                .join(
                    _pad(cell[at] if at < len(cell) else "", widths[i], left=self.is_text(i))
                    for i, cell in enumerate(cells)
                )
                .rstrip()
                for at in range(max(map(len, cells)))
            )

        return "\n".join([*([self.title] if self.title else []), *map(spell, lines)])


def cell_width(text: str) -> int:
    """Cells of a terminal that the longest line of `text` takes."""
    return max(
        sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line)
        for line in text.split("\n")
    )


def fit(table: Table, width: int) -> tuple[Table | None, tuple[str, ...]]:
    """The table as `width` cells can show it, and the names of the columns left out.

    Columns of words wrap between words; then the frame goes, then the optional columns in their
    order. None where even that does not fit: `records` then shows the rows.
    """
    kept, dropped = list(range(len(table.header))), []
    natural = [
        max(map(cell_width, column)) for column in zip(table.header, *table.rows, strict=True)
    ]
    least = [
        _least(table, index) if name in table.wrap else natural[index]
        for index, name in enumerate(table.header)
    ]
    for framed in (True, False):
        if (made := _shape(table, kept, natural, least, width, framed=framed)) is not None:
            return made, ()
    for name in table.optional:
        if name not in table.header or len(kept) == 1:
            continue
        kept.remove(list(table.header).index(name))
        dropped.append(name)
        if (made := _shape(table, kept, natural, least, width, framed=False)) is not None:
            return made, tuple(dropped)
    return None, ()


def records(table: Table, width: int) -> str:
    """Every cell of the table at any width: the first column, and below it `name: value` pairs,
    as many in a line as fit. Only a cell that is wider itself runs over, and it is not cut."""
    lines = [table.title] if table.title else []
    for row in table.rows:
        lines.append(row[0])
        line = ""
        for name, cell in zip(table.header[1:], row[1:], strict=True):
            if not cell:
                continue
            pair = f"{name}: {cell}" if name else cell
            joined = f"{line}   {pair}" if line else f"  {pair}"
            if line and cell_width(joined) > width:
                lines += _wrapped(line, width)
                joined = f"  {pair}"
            line = joined
        lines += _wrapped(line, width)
    return "\n".join(lines)


def _wrapped(line: str, width: int) -> list[str]:
    """A line of pairs, folded between words where it is too long."""
    if cell_width(line) <= width:
        return [line] if line else []
    first, *rest = fold(line, width - 4)
    return [f"  {first}", *(f"    {one}" for one in rest)]


def fold(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells. A word is not split, so a longer one stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and cell_width(lines[-1]) + 1 + cell_width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def _least(table: Table, index: int) -> int:
    """How narrow a column of words may be: no word is split."""
    cells = [table.header[index], *(row[index] for row in table.rows)]
    words = [cell_width(word) for cell in cells for word in cell.split()]
    widest = max((cell_width(cell) for cell in cells), default=0)
    return min(widest, max([_NARROWEST, *words]))


def _shape(
    table: Table,
    kept: Sequence[int],
    natural: Sequence[int],
    least: Sequence[int],
    width: int,
    *,
    framed: bool,
) -> Table | None:
    """The kept columns, wrapped so that they fit in `width`; None if they do not."""
    # A framed column has two spaces and a line, and the table one line more.
    around = 3 * len(kept) + 1 if framed else _GAP * (len(kept) - 1)
    spare = width - around - sum(least[i] for i in kept)
    if spare < 0:
        return None
    widths = {i: least[i] for i in kept}
    for index in sorted(kept, key=lambda i: natural[i] - least[i]):
        # The columns that lack little get it first; the longest text takes what is left.
        more = min(spare, natural[index] - least[index])
        widths[index] += more
        spare -= more

    def cut(row: Row) -> tuple[str, ...]:
        return tuple(
            row[i] if cell_width(row[i]) <= widths[i] else "\n".join(fold(row[i], widths[i]))
            for i in kept
        )

    return replace(
        table,
        header=tuple(table.header[i] for i in kept),
        rows=[cut(row) for row in table.rows],
        left=sum(i < table.left for i in kept),
        framed=framed,
    )


def _pad(cell: str, width: int, *, left: bool) -> str:
    spaces = " " * (width - cell_width(cell))
    return cell + spaces if left else spaces + cell
