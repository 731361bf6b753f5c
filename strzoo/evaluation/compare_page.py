"""A comparison of models as an HTML page."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.analysis.report_page import PUBLISHED, published_cells
from strzoo.evaluation.compare_results import ModelComparison
from strzoo.pages.page import Cell, Chart, DataTable, Page, write_page

_LAYERS = "Sparsity of each layer, %"
_MACS = "Sparse MACs of each layer"


def write_comparison_page(
    comparison: ModelComparison, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Write a comparison as one self-contained HTML file.

    Args:
        comparison: of `strzoo.compare`.
        path: the file.
        force: overwrite an existing file.

    Returns:
        The path.

    Raises:
        StrzooError: the destination is refused.
    """
    return write_page(comparison_page(comparison), path, force=force)


def comparison_page(made: ModelComparison) -> Page:
    """The page of a comparison."""
    totals: list[tuple[Cell, ...]] = [
        (x.name, x.source, x.weights, x.nonzeros, x.sparsity, x.dense_macs, x.sparse_macs,
         x.published_top1)
        for x in made.totals
    ]  # fmt: skip
    header = ["model", "from", "weights", "nonzeros", "sparsity %", "dense MACs", "sparse MACs",
              "published top-1 %"]  # fmt: skip
    tables = [DataTable("Totals", header, totals)]
    published = [(x.name, *cells) for x in made.totals for cells in published_cells(x.published)]
    if published:
        tables.append(DataTable("Published against computed", ("model", *PUBLISHED), published))
    if made.masks:
        pairs = [
            (f"{m.first} and {m.second}", m.both, m.either, m.overlap, m.chance, m.layers)
            for m in made.masks
        ]
        header = ["models", "in both", "in either", "overlap %", "by chance %", "layers"]
        tables.append(DataTable("Nonzero weights at the same places", header, pairs))
    if made.agreement:
        answers = [(f"{a.first} and {a.second}", a.top1, a.top5, a.images) for a in made.agreement]
        header = ["models", "same class %", "same of five %", "images"]
        tables.append(DataTable("Answers on the bundled photographs", header, answers))
    charts = []
    if made.layers:
        sparsity = [(one.name, *one.sparsity, one.spread) for one in made.layers]
        tables.append(DataTable(_LAYERS, ("layer", *made.names, "spread, points"), sparsity))
        macs = [(one.name, *one.sparse_macs) for one in made.layers]
        tables.append(DataTable(_MACS, ("layer", *made.names), macs))
        names = [one.name for one in made.layers]
        lines = [
            (name, [one.sparsity[i] for one in made.layers]) for i, name in enumerate(made.names)
        ]
        costs = [
            (name, [_millions(one.sparse_macs[i]) for one in made.layers])
            for i, name in enumerate(made.names)
        ]
        charts = [
            Chart("Sparsity of each layer", "line", names, lines, "layer", "sparsity %", _LAYERS),
            Chart("Multiply-accumulates left in each layer", "bar", names, costs, "layer",
                  "million MACs", _MACS),
        ]  # fmt: skip
    facts = [("Models", ", ".join(made.names))]
    return Page("strzoo compare", facts, charts, tables, made.notes)


def _millions(macs: int | None) -> float | None:
    return None if macs is None else macs / 1e6
