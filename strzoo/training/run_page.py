"""A finished run as an HTML page: accuracy, sparsity and thresholds over the epochs, and layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from strzoo.pages.page import Cell, Chart, DataTable, Page, write_page
from strzoo.training.results import EpochRecord

_EPOCHS = "Epochs"
_MOST = 6  # layers in a chart over the epochs: more lines than these cannot be told apart


def write_run_page(
    path: Path,
    title: str,
    history: Sequence[EpochRecord],
    shown: EpochRecord,
    changed: Mapping[str, object],
) -> Path:
    """Write the page of a run; an earlier one is overwritten.

    Args:
        path: the file.
        title: the recipe, or the architecture.
        history: one record per epoch.
        shown: the epoch that represents the run.
        changed: the configuration, where it differs from the defaults.

    Raises:
        StrzooError: it cannot be written.
    """
    return write_page(run_page(title, history, shown, changed), path, force=True)


def run_page(
    title: str,
    history: Sequence[EpochRecord],
    shown: EpochRecord,
    changed: Mapping[str, object],
) -> Page:
    """The page of a run; arguments as `write_run_page`."""
    epochs: list[tuple[Cell, ...]] = [
        (r.epoch, r.train_loss, _finite(r.loss), r.train_top1, _finite(r.top1), _finite(r.top5),
         r.sparsity, r.target_sparsity, r.learning_rate)
        for r in history
    ]  # fmt: skip
    header = ("epoch", "train loss", "loss", "train top-1 %", "top-1 %", "top-5 %", "sparsity %",
              "target %", "learning rate")  # fmt: skip
    decimals = {"train loss": 4, "loss": 4, "learning rate": 6}
    layers = [(n, x.weights, x.sparsity, x.threshold) for n, x in shown.layers.items()]
    of_layers = f"Layers of epoch {shown.epoch}"
    charts = _charts(history, shown, of_layers)
    curves = [_over_epochs(history, *drawn) for drawn in list_curves(history, shown)]
    tables = [
        DataTable(_EPOCHS, header, epochs, decimals),
        DataTable(of_layers, ("layer", "weights", "sparsity %", "threshold"), layers,
                  {"threshold": 6}),
        *(table for _, table in curves),
        DataTable("Configuration that differs from the defaults", ("key", "value"),
                  [(name, str(value)) for name, value in changed.items()]),
    ]  # fmt: skip
    measured = math.isfinite(shown.top1)
    accuracy = f"top-1 {shown.top1:.2f} %, top-5 {shown.top5:.2f} %" if measured else "not measured"
    facts = [
        ("Epoch shown", f"{shown.epoch} of {len(history)}"),
        ("Accuracy", accuracy),
        ("Sparsity", f"{shown.sparsity:.2f} % of the weights of convolutions and linear layers"),
    ]
    return Page(f"strzoo train: {title}", facts, [*charts, *(c for c, _ in curves)], tables)


def _charts(history: Sequence[EpochRecord], shown: EpochRecord, of_layers: str) -> list[Chart]:
    at = [str(r.epoch) for r in history]
    sparsity: list[tuple[str, list[float | None]]] = [("all layers", [r.sparsity for r in history])]
    if any(r.target_sparsity is not None for r in history):
        sparsity.append(("target", [r.target_sparsity for r in history]))
    return [
        Chart("Top-1 over the epochs", "line", at,
              [("validation", [r.top1 for r in history]),
               ("training", [r.train_top1 for r in history])], "epoch", "top-1 %", _EPOCHS),
        Chart("Sparsity over the epochs", "line", at, sparsity, "epoch", "sparsity %", _EPOCHS),
        Chart(f"Sparsity of each layer in epoch {shown.epoch}", "bar", list(shown.layers),
              [("sparsity", [x.sparsity for x in shown.layers.values()])], "layer", "sparsity %",
              of_layers),
    ]  # fmt: skip


def list_curves(
    history: Sequence[EpochRecord], shown: EpochRecord
) -> list[tuple[str, list[tuple[str, list[float | None]]]]]:
    """What follows layers over the epochs: sparsity and, if any are learned, thresholds; each with
    a line for some layers, evenly spread over the depth."""
    learned = [name for name, layer in shown.layers.items() if layer.threshold is not None]
    made = []
    for field, names in (("sparsity", list(shown.layers)), ("threshold", learned)):
        lines = [
            (name, [getattr(r.layers[name], field) if name in r.layers else None for r in history])
            for name in names[:: max(1, math.ceil(len(names) / _MOST))]
        ]
        if lines:
            made.append(("sparsity %" if field == "sparsity" else field, lines))
    return made


def _over_epochs(
    history: Sequence[EpochRecord],
    unit: str,
    lines: Sequence[tuple[str, Sequence[float | None]]],
) -> tuple[Chart, DataTable]:
    title = f"{unit.removesuffix(' %').capitalize()} of {len(lines)} layers over the epochs"
    rows = [(r.epoch, *(values[i] for _, values in lines)) for i, r in enumerate(history)]
    names = [name for name, _ in lines]
    decimals = dict.fromkeys(names, 6 if unit == "threshold" else 2)
    return (
        Chart(title, "line", [str(r.epoch) for r in history], lines, "epoch", unit, title),
        DataTable(title, ("epoch", *names), rows, decimals),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
