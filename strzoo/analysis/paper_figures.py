"""The figures of the paper from strzoo's data: budgets, tables, and the user's own runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.analysis.comparison import parse_figure
from strzoo.analysis.paper import PaperLine, compare_paper_table
from strzoo.analysis.paper_runs import find_runs, read_layers
from strzoo.analysis.report_plot import spell_macs
from strzoo.errors import UnknownNameError, UsageError
from strzoo.pictures import (
    COLOURS,
    check_plot,
    draw_layers,
    layers_width,
    line_style,
    log_axis,
    new_figure,
    save_figure,
)
from strzoo.settings import user_path
from strzoo.zoo.budgets import load_budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RESULTS = ("1", "2")  # the tables of ResNet50 and MobileNetV1
_RESNET50 = ("resnet50_str_90.23", "resnet50_uniform_90", "resnet50_erk_90", "resnet50_snfs_90",
             "resnet50_vd_90", "resnet50_gs_90")  # fmt: skip
_MOBILENETV1 = ("mobilenetv1_str_89.01", "mobilenetv1_gmp_89.03")
_TENTH = 9  # figure 1 follows the tenth layer


@dataclass(frozen=True)
class PaperFigure:
    """What a figure shows; `needs_run` says that it is drawn from a run of `strzoo train`."""

    number: int
    title: str
    draw: Callable[[Path | None], Figure]
    needs_run: bool = False


def _threshold_over_epochs(runs: Path | None) -> Figure:
    run = read_layers(_choose_run(runs))
    learned = {name: t for name, t in run.thresholds.items() if None not in t}
    if not learned:
        raise UsageError("this run learned no thresholds; figure 1 needs one of STR")
    name = list(learned)[min(_TENTH, len(learned) - 1)]
    figure = new_figure(6, 4)
    _over_epochs(figure.subplots(), run.epochs, learned[name], f"threshold of {name}")
    return figure


def _sparsity_over_epochs(runs: Path | None) -> Figure:
    run = read_layers(_choose_run(runs))
    total = sum(run.weights.values())
    whole = [
        sum(run.weights[name] * values[i] for name, values in run.sparsity.items()) / max(total, 1)
        for i in range(len(run.epochs))
    ]
    figure = new_figure(6, 4)
    _over_epochs(figure.subplots(), run.epochs, whole, "sparsity of all layers, %")
    return figure


def _final_thresholds(runs: Path | None) -> Figure:
    run = read_layers(_choose_run(runs))
    names = [name for name, values in run.thresholds.items() if values[-1] is not None]
    if not names:
        raise UsageError("this run learned no thresholds; figure 3 needs one of STR")
    figure = new_figure(layers_width(names), 4.5)
    final = [run.thresholds[name][-1] for name in names]
    draw_layers(figure.subplots(), names, [("", final)], f"threshold in epoch {run.epochs[-1]}")
    return figure


def _over_epochs(axes: Axes, epochs: list[int], values: list[float], y: str) -> None:
    axes.plot(epochs, values, **line_style(0))
    axes.set_xlabel("epoch")
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def _choose_run(runs: Path | None) -> Path:
    assert runs is not None
    return find_runs(runs)[0].folder


def _accuracy_over_sparsity(runs: Path | None) -> Figure:
    return _frontier(runs, "weights that are not zero, %", lambda x: 100 - x.result.sparsity)


def _accuracy_over_macs(runs: Path | None) -> Figure:
    return _frontier(runs, "million MACs", _millions)


def _frontier(runs: Path | None, x: str, place: Callable[[PaperLine], float | None]) -> Figure:
    figure = new_figure(12, 5)
    for panel, number in zip(figure.subplots(1, 2), _RESULTS, strict=True):
        made = compare_paper_table(number, runs=runs)
        methods: dict[str, list[tuple[float, PaperLine]]] = {}
        for line in made.lines:
            if (at := place(line)) is not None:
                methods.setdefault(line.result.method, []).append((at, line))
        for index, (method, found) in enumerate(sorted(methods.items(), key=_str_first)):
            points = sorted((at, line.result.top1) for at, line in found)
            panel.plot(*zip(*points, strict=True), label=method, **line_style(index))
        every = [pair for found in methods.values() for pair in found]
        zoo = [(at, line.result.top1) for at, line in every if line.result.model]
        _ring(panel, zoo, "in the zoo", COLOURS[4], 9)
        if place is not _millions:  # a run's MACs are not in its files
            own = [(100 - run.sparsity, run.top1) for _, line in every for run in line.runs]
            _ring(panel, own, "own runs", COLOURS[1], 13)
            panel.invert_xaxis()
        log_axis(panel.xaxis)
        panel.set_xlabel(x)
        panel.set_ylabel("top-1 %")
        panel.set_title(made.table.title, loc="left", fontsize=9)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return figure


def _str_first(item: tuple[str, object]) -> tuple[bool, str]:
    return item[0] != "STR", item[0]


def _ring(panel: Axes, points: list[tuple[float, float]], label: str, colour: str, s: int) -> None:
    if points:
        panel.plot(*zip(*points, strict=True), "o", mfc="none", mec=colour, ms=s, label=label)


def _millions(line: PaperLine) -> float | None:
    """MACs as computed, else as printed."""
    if line.computed_flops is not None:
        return line.computed_flops / 1e6
    printed = line.result.flops
    return None if printed is None else parse_figure(printed.removeprefix("~"))[0] / 1e6


def _budgets(names: tuple[str, ...], *, macs: bool) -> Figure:
    budgets = [load_budget(name) for name in names]
    layers = list(budgets[0].layers)
    figure = new_figure(layers_width(layers), 5)
    if macs:
        draw_layers(figure.subplots(), layers, [spell_macs(b, layers) for b in budgets],
                    "million MACs")  # fmt: skip
    else:
        lines = [(f"{b.name}, {b.sparsity:.2f} %", [b.layers[n] for n in layers]) for b in budgets]
        draw_layers(figure.subplots(), layers, lines, "sparsity %")
    return figure


FIGURES = {
    figure.number: figure
    for figure in (
        PaperFigure(1, "the threshold of one layer over the epochs", _threshold_over_epochs, True),
        PaperFigure(2, "the sparsity of all layers over the epochs", _sparsity_over_epochs, True),
        PaperFigure(3, "the learned threshold of each layer", _final_thresholds, True),
        PaperFigure(4, "accuracy against sparsity, of all methods", _accuracy_over_sparsity),
        PaperFigure(5, "accuracy against MACs, of all methods", _accuracy_over_macs),
        PaperFigure(6, "budgets of ResNet50 at 90 %: sparsity of each layer",
                    lambda runs: _budgets(_RESNET50, macs=False)),
        PaperFigure(7, "budgets of ResNet50 at 90 %: MACs left in each layer",
                    lambda runs: _budgets(_RESNET50, macs=True)),
        PaperFigure(8, "budgets of MobileNetV1 at 89 %: sparsity of each layer",
                    lambda runs: _budgets(_MOBILENETV1, macs=False)),
        PaperFigure(9, "budgets of MobileNetV1 at 89 %: MACs left in each layer",
                    lambda runs: _budgets(_MOBILENETV1, macs=True)),
    )
}  # fmt: skip


def plot_paper_figure(
    number: int,
    path: str | os.PathLike[str],
    *,
    runs: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Path:
    """Draw what a figure of the paper shows, from strzoo's budgets and tables or from a run.

    Args:
        number: 1 to 9.
        path: ends in .png, .svg or .pdf.
        runs: a run folder, or a folder of them: figures 1 to 3 are drawn from the most accurate,
            figure 4 shows them all.
        force: overwrite an existing file.

    Returns:
        The path.

    Raises:
        UnknownNameError: there is no such figure.
        UsageError: a run is needed and none is given, or another suffix.
        StrzooError: matplotlib is missing, the runs cannot be read, or the destination is refused.
    """
    if number not in FIGURES:
        raise UnknownNameError(f"no figure {number}; choose from {', '.join(map(str, FIGURES))}")
    wanted = FIGURES[number]
    if wanted.needs_run and runs is None:
        raise UsageError(f"figure {number} is drawn from a run: give --runs FOLDER of strzoo train")
    check_plot(path, force=force)
    figure = wanted.draw(None if runs is None else user_path(runs))
    figure.suptitle(f"As figure {number}: {wanted.title}", fontsize=10)
    return save_figure(figure, path, force=force)
