"""Several models as a picture: the sparsity of each layer. matplotlib is the extra strzoo[plot]."""

from __future__ import annotations

import os
from pathlib import Path

from strzoo.errors import UsageError
from strzoo.evaluation.compare_results import ModelComparison
from strzoo.pictures import check_plot, draw_layers, layers_width, new_figure, save_figure


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
    names = [layer.name for layer in layers]
    lines = [(n, [x.sparsity[i] for x in layers]) for i, n in enumerate(comparison.names)]
    figure = new_figure(layers_width(names), 4.5)
    draw_layers(figure.subplots(), names, lines, "sparsity %")
    return save_figure(figure, path, force=force)
