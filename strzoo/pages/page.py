"""Page: what an HTML report holds, and its one file.

The charts are Chart.js's, which `make charts` (tools/vendor_charts.py) fetches from the npm
registry when the package is built. Without it a page has its facts and tables, and says so.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from strzoo.files import write_text
from strzoo.version import VERSION

_FOLDER = Path(__file__).resolve().parent
_SHORT = 8  # rows that need no filter
CHART_LIBRARY = _FOLDER / "vendor" / "chart.umd.min.js"
Cell = str | int | float | None


@dataclass(frozen=True)
class Chart:
    """Numbers over labels.

    Args:
        title: says what is drawn; screen readers read it too.
        kind: "bar" or "line".
        labels: of the places on the axis, in order.
        series: a name and a value for each label; None leaves a gap.
        x, y: titles of the axes.
        of_table: title of the table that holds the same numbers.
    """

    title: str
    kind: str
    labels: Sequence[str]
    series: Sequence[tuple[str, Sequence[float | None]]]
    x: str
    y: str
    of_table: str


@dataclass(frozen=True)
class DataTable:
    """A table that a reader sorts and filters; numbers stay numbers.

    Args:
        decimals: by column name; whole numbers get separators.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    decimals: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A page from top to bottom: facts (name, text), charts, tables, notes."""

    title: str
    facts: Sequence[tuple[str, str]]
    charts: Sequence[Chart]
    tables: Sequence[DataTable]
    notes: Sequence[str] = ()


def write_page(page: Page, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write the page as one HTML file.

    Raises:
        StrzooError: the destination is refused, or cannot be written.
    """
    return write_text(path, render_page(page), force=force)


def render_page(page: Page) -> str:
    """The HTML of a page; it loads nothing from anywhere."""
    library = CHART_LIBRARY.read_text(encoding="utf-8") if CHART_LIBRARY.is_file() else ""
    notes = list(page.notes)
    charts = [chart for chart in page.charts if _has_values(chart)] if library else []
    if page.charts and not library:
        notes.append("No charts: this installation was built without Chart.js (`make charts`).")
    return Template((_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(page.title),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        facts="\n".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in page.facts
        ),
        charts="\n".join(_figure(index, chart, page) for index, chart in enumerate(charts)),
        tables="\n".join(_section(index, table) for index, table in enumerate(page.tables)),
        notes=_list(notes),
        version=html.escape(VERSION),
        library=library.replace("</script", "<\\/script"),
        data=json.dumps([_chart_data(chart) for chart in charts]).replace("<", "\\u003c"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _has_values(chart: Chart) -> bool:
    return any(value is not None for _, values in chart.series for value in values)


def _figure(index: int, chart: Chart, page: Page) -> str:
    title = html.escape(chart.title)
    target = next((i for i, t in enumerate(page.tables) if t.title == chart.of_table), None)
    link = "" if target is None else f' <a href="#table-{target}">The same numbers as a table</a>'
    return (
        f'<figure><figcaption id="chart-{index}-title">{title}.{link}</figcaption>'
        f'<div class="canvas"><canvas id="chart-{index}" role="img" '
        f'aria-labelledby="chart-{index}-title"></canvas></div></figure>'
    )


def _section(index: int, table: DataTable) -> str:
    key = f"table-{index}"
    rows = list(table.rows)
    numeric = [
        any(isinstance(row[i], int | float) for row in rows) for i in range(len(table.header))
    ]
    head = "".join(
        f'<th scope="col" aria-sort="none"{_number(numeric[i])}>'
        f'<button type="button">{html.escape(name)}</button></th>'
        for i, name in enumerate(table.header)
    )
    body = "\n".join(
        "<tr>" + "".join(_cell(table, i, cell, numeric[i]) for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    title = html.escape(table.title)
    tools = (
        f'<p class="tools"><label for="{key}-filter">Filter the rows of “{title}”</label> '
        f'<input id="{key}-filter" type="search" autocomplete="off" data-table="{key}-rows"> '
        f'<output for="{key}-filter">{len(rows)} of {len(rows)} rows</output></p>'
    )
    return (
        f'<section><h2 id="{key}">{title}</h2>{tools if len(rows) > _SHORT else ""}'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{key}">'
        f'<table id="{key}-rows"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _cell(table: DataTable, index: int, cell: Cell, numeric: bool) -> str:
    decimals = table.decimals.get(table.header[index], 2)
    if cell is None:
        text, value = "", ""
    elif isinstance(cell, str):
        text, value = html.escape(cell), ""
    else:
        text = f"{cell:,.{decimals}f}" if isinstance(cell, float) else f"{cell:,}"
        value = f' data-value="{cell!r}"'
    if index == 0:
        return f'<th scope="row"{value}>{text}</th>'
    return f"<td{_number(numeric)}{value}>{text}</td>"


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _list(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<section><h2 id="notes">Notes</h2><ul>{items}</ul></section>'


def _chart_data(chart: Chart) -> dict[str, object]:
    def plain(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "kind": chart.kind,
        "labels": list(chart.labels),
        "series": [{"name": n, "values": [plain(v) for v in values]} for n, values in chart.series],
        "x": chart.x,
        "y": chart.y,
    }
