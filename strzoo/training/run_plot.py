"""A run as pictures: accuracy, sparsity and thresholds over the epochs, and the learned budget."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.pictures import bar_style, legend_above, line_style, new_figure, save_figure
from strzoo.training.results import EpochRecord
from strzoo.training.run_page import list_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120


def plot_run(
    history: Sequence[EpochRecord],
    shown: EpochRecord,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Path:
    """Draw accuracy, sparsity, and the sparsity and threshold of some layers over the epochs.

    Args:
        history: one record per epoch.
        shown: the epoch that is marked.
        path: ends in .png, .svg or .pdf.
        force: overwrite an existing file.

    Raises:
        StrzooError: the destination is refused, or cannot be written.
    """
    curves = list_curves(history, shown)
    figure = new_figure(8, 2.6 * (2 + len(curves)))
    accuracy, sparsity, *others = figure.subplots(2 + len(curves), 1, sharex=True)
    epochs = [record.epoch for record in history]
    _draw(accuracy, epochs, [("validation", [r.top1 for r in history]),
                             ("training", [r.train_top1 for r in history])], "top-1 %")  # fmt: skip
    accuracy.plot([shown.epoch], [shown.top1], "o", mfc="none", mec="black", ms=10)
    totals: list[tuple[str, list[float | None]]] = [("all layers", [r.sparsity for r in history])]
    if any(r.target_sparsity is not None for r in history):
        totals.append(("target", [r.target_sparsity for r in history]))
    _draw(sparsity, epochs, totals, "sparsity %")
    for panel, (field, lines) in zip(others, curves, strict=True):
        _draw(panel, epochs, lines, field)
    figure.axes[-1].set_xlabel("epoch")
    return save_figure(figure, path, force=force, dpi=_DPI)


def plot_layers(shown: EpochRecord, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Draw the budget that an epoch has learned: the sparsity of each layer.

    Raises:
        StrzooError: the destination is refused, or cannot be written.
    """
    figure = new_figure(8, 2.5 + 0.16 * len(shown.layers))
    axes = figure.subplots()
    places = range(len(shown.layers))
    axes.barh(places, [layer.sparsity for layer in shown.layers.values()], **bar_style(0))
    axes.set_yticks(places, list(shown.layers), fontsize=7)
    axes.invert_yaxis()
    axes.axvline(shown.sparsity, color="black", linestyle="--")
    axes.set_xlabel(f"sparsity % (dashed: all layers, {shown.sparsity:.2f})")
    return save_figure(figure, path, force=force, dpi=_DPI)


def _draw(
    panel: Axes,
    epochs: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float | None]]],
    y: str,
) -> None:
    for index, (name, values) in enumerate(lines):
        known = [float("nan") if value is None else value for value in values]
        panel.plot(epochs, known, label=name, **line_style(index))
    panel.set_ylabel(y)
    panel.grid(alpha=0.3)
    legend_above(panel)
