"""Reports and budgets as pictures: sparsity and MACs of each layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from strzoo.analysis.report import report_budget
from strzoo.analysis.results import Report
from strzoo.errors import UsageError
from strzoo.pictures import (
    bar_style,
    check_plot,
    draw_layers,
    layers_width,
    legend_above,
    new_figure,
    save_figure,
)
from strzoo.zoo.budgets import Budget

_MILLION = 1e6
_PALE = "#c8c8c8"


def plot_report(report: Report, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Draw the sparsity of each layer, and its MACs before and after.

    Args:
        report: of `strzoo.report`.
        path: ends in .png, .svg or .pdf.
        force: overwrite an existing file.

    Raises:
        UsageError: there are no layers to draw, or another suffix.
        StrzooError: matplotlib is missing, or the destination is refused.
    """
    if not report.layers:
        raise UsageError(f"{report.model} has no layers to draw")
    check_plot(path, force=force)
    names = [layer.name for layer in report.layers]
    known = report.sparsity is not None
    figure = new_figure(layers_width(names), 7 if known else 4.5)
    panels = figure.subplots(1 + known, 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(f"{report.model} (sparsity from {report.source})", fontsize=10)
    if known:
        draw_layers(panels[0], names, [("", [x.sparsity for x in report.layers])], "sparsity %")
    below = panels[-1]
    places = range(len(names))
    dense = [layer.dense_macs / _MILLION for layer in report.layers]
    below.bar(places, dense, label="dense", width=0.8, color=_PALE)
    if known:
        sparse = [(layer.sparse_macs or 0) / _MILLION for layer in report.layers]
        below.bar(places, sparse, label="zeros skipped", width=0.5, **bar_style(1))
        legend_above(below)
    below.set_xticks(places, names, rotation=90, fontsize=7)
    below.margins(x=0.01)
    below.set_ylabel("million MACs")
    return save_figure(figure, path, force=force)


def plot_budgets(
    budgets: Sequence[Budget], path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Draw the sparsity of each layer in several budgets of an architecture, and the MACs that
    each leaves.

    Args:
        budgets: all with the layers of the first.
        path: ends in .png, .svg or .pdf.
        force: overwrite an existing file.

    Raises:
        UsageError: another suffix.
        UnknownNameError: the architecture is not one of strzoo's, or has other layers.
        StrzooError: matplotlib is missing, or the destination is refused.
    """
    check_plot(path, force=force)
    names = list(budgets[0].layers)
    figure = new_figure(layers_width(names), 8)
    above, below = figure.subplots(2, 1, sharex=True)
    sparsity = [(f"{b.name}, {b.sparsity:.2f} %", [b.layers[n] for n in names]) for b in budgets]
    draw_layers(above, names, sparsity, "sparsity %")
    draw_layers(below, names, [spell_macs(budget, names) for budget in budgets], "million MACs")
    return save_figure(figure, path, force=force)


def spell_macs(budget: Budget, names: Sequence[str]) -> tuple[str, list[float | None]]:
    """Name with total, and millions of MACs that the budget leaves of each layer."""
    made = report_budget(budget)
    left = {x.name: (x.sparse_macs or 0) / _MILLION for x in made.layers}
    return f"{budget.name}, {(made.sparse_macs or 0) / _MILLION:,.0f} M", [left[n] for n in names]
