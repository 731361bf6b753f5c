"""A result table of the paper as a picture: accuracy against the weights that are left."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.analysis.paper import PaperComparison, PaperLine
from strzoo.errors import UsageError
from strzoo.pictures import check_plot, line_style, log_axis, new_figure, save_figure


def plot_paper_table(
    comparison: PaperComparison, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Draw top-1 against the percentage of nonzero weights, a line per method; own runs as stars.

    Args:
        comparison: of `compare_paper_table`.
        path: ends in .png, .svg or .pdf.

    Raises:
        UsageError: the table has no accuracies, or another suffix.
        StrzooError: matplotlib is missing, or the destination is refused.
    """
    number = comparison.table.number
    lines = [line for line in comparison.lines if line.result.sparsity]
    if not lines:
        raise UsageError(f"table {number} has no accuracy over sparsity to draw")
    check_plot(path, force=force)
    figure = new_figure(8, 5.5)
    axes = figure.subplots()
    methods: dict[str, list[PaperLine]] = {}
    for line in sorted(lines, key=lambda line: line.result.sparsity):
        methods.setdefault(line.result.method, []).append(line)
    for index, (method, members) in enumerate(methods.items()):
        left = [100 - line.result.sparsity for line in members]
        axes.plot(left, [line.result.top1 for line in members], label=method, **line_style(index))
    own = [run for line in lines for run in line.runs]
    if own:
        left = [100 - run.sparsity for run in own]
        axes.plot(left, [run.top1 for run in own], "k*", label="own runs", markersize=10)
    log_axis(axes.xaxis)
    axes.invert_xaxis()
    axes.set_xlabel("weights that are not zero, %")
    axes.set_ylabel("top-1 %")
    axes.grid(alpha=0.3)
    axes.set_title(f"Table {number}. {comparison.table.title}", loc="left", fontsize=10)
    axes.legend(fontsize=8)
    return save_figure(figure, path, force=force)
