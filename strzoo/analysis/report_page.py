"""A report as an HTML page: totals, published against computed, layers, charts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from strzoo.analysis.comparison import Comparison, compare_published
from strzoo.analysis.rendering import summary
from strzoo.analysis.results import Report
from strzoo.pages.page import Chart, DataTable, Page, write_page
from strzoo.spelling import spell_change
from strzoo.zoo.registry import ModelCard

LAYERS = "Layers"
_HEADER = ("layer", "type", "shape", "output", "params", "nonzeros", "sparsity %", "threshold",
           "dense MACs", "sparse MACs")  # fmt: skip
PUBLISHED = ("figure", "published", "computed", "difference", "verdict")


def write_report_page(
    report: Report,
    path: str | os.PathLike[str],
    *,
    card: ModelCard | None = None,
    force: bool = False,
) -> Path:
    """Write a report as one self-contained HTML file.

    Args:
        report: of `strzoo.report`.
        path: the file.
        card: what is published about the model, set against what was computed.
        force: overwrite an existing file.

    Returns:
        The path.

    Raises:
        StrzooError: the destination is refused.
    """
    return write_page(report_page(report, card), path, force=force)


def report_page(report: Report, card: ModelCard | None = None) -> Page:
    """The page of a report."""
    published = () if card is None else compare_published(card, report)
    rows = [
        (
            layer.name,
            layer.type,
            "x".join(map(str, layer.shape)),
            "x".join(map(str, layer.output)),
            layer.params,
            layer.nonzeros,
            layer.sparsity,
            layer.threshold,
            layer.dense_macs,
            layer.sparse_macs,
        )
        for layer in report.layers
    ]
    tables = [DataTable(LAYERS, _HEADER, rows, {"threshold": 6})]
    if published:
        cells = published_cells(published)
        tables.insert(0, DataTable("Published against computed", PUBLISHED, cells))
    return Page(f"strzoo report: {report.model}", _facts(report), _charts(report), tables,
                report.notes)  # fmt: skip


def _facts(report: Report) -> list[tuple[str, str]]:
    names = {
        "params ": "Parameters",
        "MACs ": "Cost",
        "input ": "Counting",
        "sparsity from: ": "Sparsity from",
        "blocks ": "Blocks",
        "not counted: ": "Not counted",
    }
    found = []
    for line in summary(report):
        for begin, name in names.items():
            if line.startswith(begin):
                found.append((name, line.removeprefix(begin) if ": " in begin else line))
    return found


def published_cells(lines: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Published figures against computed ones: a row of texts for each, as `PUBLISHED` names
    them."""
    return [
        (
            line.quantity,
            line.published,
            line.computed or "unknown",
            "" if line.difference is None
            else " ".join(
                (spell_change(line.difference), "points" if line.quantity == "sparsity" else "%")
            ),
            line.verdict + (f" ({line.note})" if line.note else ""),
        )
        for line in lines
    ]  # fmt: skip


def _charts(report: Report) -> list[Chart]:
    names = [layer.name for layer in report.layers]
    sparsity = [layer.sparsity for layer in report.layers]
    charts = []
    if any(value is not None for value in sparsity):
        charts.append(
            Chart("Sparsity of each layer", "line", names, [("sparsity", sparsity)], "layer",
                  "sparsity %", LAYERS)
        )  # fmt: skip
    macs: list[tuple[str, list[float | None]]] = [
        ("dense", [layer.dense_macs / 1e6 for layer in report.layers])
    ]
    if report.sparse_macs is not None:
        sparse = [layer.sparse_macs for layer in report.layers]
        macs.append(("sparse", [None if m is None else m / 1e6 for m in sparse]))
    title = "Multiply-accumulates of each layer before and after"
    charts.append(Chart(title, "bar", names, macs, "layer", "million MACs", LAYERS))
    thresholds = [layer.threshold for layer in report.layers]
    if any(value is not None for value in thresholds):
        charts.append(
            Chart("Threshold of each layer", "line", names, [("threshold", thresholds)], "layer",
                  "threshold", LAYERS)
        )  # fmt: skip
    return charts
