"""Several models as a picture: the sparsity of each layer. matplotlib is the extra strzoo[plot]."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.errors import UsageError
from strzoo.evaluation.compare import ModelComparison
from strzoo.pictures import check_plot, new_figure, save_figure

_MARKERS = "os^Dvpx"


def plot_comparison(
    comparison: ModelComparison, path: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Draw the sparsity of each layer, a line per model.

    Args:
        comparison: of `compare`.
        path: ends in .png, .svg or .pdf.
        force: overwrite an existing file.

    Raises:
        UsageError: no layer is known, or another suffix.
        StrzooError: matplotlib is missing, or the destination is refused.
    """
    if not comparison.layers:
        raise UsageError("none of the models has layers to draw")
    check_plot(path, force=force)
    layers = comparison.layers
    figure = new_figure(max(6.0, 0.2 * len(layers) + 2), 4.5)
    axes = figure.subplots()
    for index, name in enumerate(comparison.names):
        values = [float("nan") if s is None else s for s in (x.sparsity[index] for x in layers)]
        marker = _MARKERS[index % len(_MARKERS)]
        axes.plot(range(len(layers)), values, f"{marker}-", markersize=4, label=name)
    axes.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90, fontsize=7)
    axes.set_ylabel("sparsity %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return save_figure(figure, path, force=force)
