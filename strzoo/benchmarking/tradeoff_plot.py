"""The frontier of accuracy and latency as a picture. matplotlib is the extra strzoo[plot]."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.benchmarking.tradeoff_results import ENGINES, TradeoffResult
from strzoo.pictures import check_plot, line_style, new_figure, save_figure


def plot_tradeoff(
    result: TradeoffResult, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Draw top-1 over latency: a line for each engine, its points named by their sparsity, the
    recommended one in a circle.

    Args:
        result: of `tradeoff`.
        path: ends in .png, .svg or .pdf.
        force: overwrite an existing file.

    Raises:
        UsageError, StrzooError: as `check_plot`.
    """
    check_plot(path, force=force)

    figure = new_figure(8, 5)
    panel = figure.subplots()
    for number, engine in enumerate(ENGINES):
        points = [point for point in result.points if point.engine == engine]
        if not points:
            continue
        panel.plot(
            [p.p50 for p in points], [p.top1 for p in points],
            label=engine, **line_style(number),
        )  # fmt: skip
        for point in points:
            panel.annotate(
                f"{point.sparsity:.0f} %", (point.p50, point.top1), (5, 5),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
    taken = result.recommendation
    for point in result.points:
        if (point.sparsity, point.engine) == (taken.sparsity, taken.engine):
            panel.plot([point.p50], [point.top1], "o", ms=16, mfc="none", mec="black")
    panel.axhline(result.points[0].top1 - result.max_loss, color="grey", lw=0.8, ls="--")
    panel.set_xlabel(f"ms per batch of {result.batch} (median)")
    panel.set_ylabel(f"top-1 % on {result.images:,} images")
    panel.margins(0.1)
    panel.legend()
    figure.suptitle(
        f"{result.model}, {result.how}\n{result.machine}, {result.threads} threads", fontsize=9
    )
    return save_figure(figure, path, force=force)
