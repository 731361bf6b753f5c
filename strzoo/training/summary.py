"""The end of a run: report.md, report.json, the learned budget, and two plots."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strzoo.errors import install_advice
from strzoo.files import write_text
from strzoo.pictures import new_figure, save_figure
from strzoo.training.config import TrainConfig
from strzoo.training.folder import RunFolder
from strzoo.training.parsing import compare_configs
from strzoo.training.results import EpochRecord, choose_best
from strzoo.zoo.budgets import Budget, write_budget

log = logging.getLogger(__name__)


def write_report(folder: RunFolder, config: TrainConfig, history: Sequence[EpochRecord]) -> None:
    """Write the report of a finished run. Without matplotlib there are no plots, and the report
    says so."""
    best, last = choose_best(list(history)), history[-1]
    shown = best or last
    budget = Budget(
        name=folder.path.name,
        architecture=config.architecture,
        method=config.method,
        sparsity=shown.sparsity,
        source=f"epoch {shown.epoch} of a run of strzoo train",
        layers={name: layer.sparsity for name, layer in shown.layers.items()},
    )
    write_budget(budget, folder.path / "budget.json", force=True)
    plots = _draw(folder.path, history, shown)
    changed = compare_configs(TrainConfig(), config)
    folder.write_json(
        "report.json",
        {
            "schema": 1,
            "recipe": config.recipe,
            "method": config.method,
            "best": _row(best),
            "last": _row(last),
            "plots": [path.name for path in plots],
        },
    )
    lines = [
        f"# {config.recipe or config.architecture}",
        "",
        config.about,
        "",
        "| | epoch | top-1 % | top-5 % | loss | sparsity % |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {r.epoch} | {r.top1:.2f} | {r.top5:.2f} | {r.loss:.4f} "
            f"| {r.sparsity:.2f} |"
            for name, r in (("best", best), ("last", last))
            if r is not None
        ),
        "",
        "Accuracy is exact, over every validation image. Sparsity is the percentage of zeros among "
        "the weights of all convolutions and linear layers.",
        "",
        *(f"![{path.stem}]({path.name})" for path in plots),
        *([] if plots else [f"No plots: they need matplotlib (`{install_advice('plot')}`)."]),
        "",
        f"## Layers of epoch {shown.epoch}",
        "",
        "| layer | weights | sparsity % | threshold |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {layer.weights:,} | {layer.sparsity:.2f} "
            f"| {'' if layer.threshold is None else f'{layer.threshold:.3g}'} |"
            for name, layer in shown.layers.items()
        ),
        "",
        "## Configuration that differs from the defaults",
        "",
        *(f"- `{name}`: {value}" for name, (_, value) in changed.items() if name != "about"),
        "",
    ]
    write_text(folder.path / "report.md", "\n".join(lines), force=True)


def _row(record: EpochRecord | None) -> dict[str, Any] | None:
    return None if record is None else record.to_dict()


def _draw(folder: Path, history: Sequence[EpochRecord], shown: EpochRecord) -> list[Path]:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        log.warning("no plots in the report: %s", install_advice("plot"))
        return []
    paths = []
    for name, draw, height in (
        ("progress", _draw_progress, 5.0),
        ("layers", _draw_layers, 2.5 + 0.16 * len(shown.layers)),
    ):
        figure = new_figure(8, height)
        draw(figure, history, shown)
        paths.append(save_figure(figure, folder / f"{name}.png", force=True, dpi=120))
    return paths


def _draw_progress(figure: Any, history: Sequence[EpochRecord], shown: EpochRecord) -> None:
    """Accuracy and sparsity over the epochs."""
    epochs = [record.epoch for record in history]
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(epochs, [r.train_top1 for r in history], label="training", color="C7")
    above.plot(epochs, [r.top1 for r in history], label="validation", color="C0")
    above.plot([shown.epoch], [shown.top1], "o", color="C0")
    above.set_ylabel("top-1 %")
    above.legend()
    below.plot(epochs, [r.sparsity for r in history], color="C1", label="all layers")
    wanted = [(r.epoch, r.target_sparsity) for r in history if r.target_sparsity is not None]
    if wanted:
        below.plot(*zip(*wanted, strict=True), "--", color="C7", label="target")
        below.legend()
    below.set_ylabel("sparsity %")
    below.set_xlabel("epoch")


def _draw_layers(figure: Any, history: Sequence[EpochRecord], shown: EpochRecord) -> None:
    """The budget: sparsity by layer."""
    axes = figure.subplots()
    places = range(len(shown.layers))
    axes.barh(places, [layer.sparsity for layer in shown.layers.values()], color="C1")
    axes.set_yticks(places, list(shown.layers), fontsize=7)
    axes.invert_yaxis()
    axes.axvline(shown.sparsity, color="C7", linestyle="--")
    axes.set_xlabel(f"sparsity % (dashed: all layers, {shown.sparsity:.2f})")
