"""A benchmark as a picture. matplotlib is the optional extra strzoo[plot]."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.benchmarking.results import BenchmarkResult
from strzoo.pictures import bar_style, check_plot, new_figure, save_figure


def plot_benchmark(
    result: BenchmarkResult, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Draw the median latency of each model and engine, one panel per batch size.

    Bars end at the median, whiskers run from the fastest run to the 90th percentile, the number
    is the ratio to dense onnxruntime.

    Args:
        result: of `benchmark`.
        path: ends in .png, .svg or .pdf.

    Raises:
        UsageError, StrzooError: as `check_plot`.
    """
    check_plot(path, force=force)

    batches = sorted({row.batch for row in result.timings})
    widest = max(sum(row.batch == batch for row in result.timings) for batch in batches)
    figure = new_figure(9, len(batches) * (0.45 * widest + 1.1))
    panels = figure.subplots(len(batches), 1, squeeze=False)[:, 0]
    engines = list(dict.fromkeys(row.engine for row in result.timings))
    for panel, batch in zip(panels, batches, strict=True):
        rows = [row for row in result.timings if row.batch == batch][::-1]
        places = range(len(rows))
        panel.barh(
            places,
            [row.p50 for row in rows],
            xerr=[
                [row.p50 - row.fastest for row in rows],
                [row.p90 - row.p50 for row in rows],
            ],
            color=[bar_style(engines.index(row.engine))["color"] for row in rows],
            hatch=[bar_style(engines.index(row.engine))["hatch"] for row in rows],
            edgecolor="white",
            error_kw={"ecolor": "grey"},
            capsize=3,
        )
        panel.set_yticks(places, [f"{row.model}, {row.engine}" for row in rows])
        for place, row in zip(places, rows, strict=True):
            panel.annotate(
                "" if row.ratio is None else f"{row.ratio:.2f}x",
                (row.p90, place),
                (6, 0),
                textcoords="offset points",
                va="center",
            )
        panel.margins(x=0.15)
        panel.set_title(f"batch {batch}", loc="left")
        panel.set_xlabel("ms per batch (median; whiskers: fastest to p90)")
    figure.suptitle(
        f"{result.machine}, {result.threads} threads; x: ratio to dense onnxruntime", fontsize=9
    )
    return save_figure(figure, path, force=force)
