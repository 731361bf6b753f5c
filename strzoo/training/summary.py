"""The end of a run: report.md, report.html, report.json, the learned budget, and two plots."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strzoo.errors import install_advice
from strzoo.files import write_text
from strzoo.training.config import TrainConfig
from strzoo.training.folder import RunFolder
from strzoo.training.parsing import compare_configs
from strzoo.training.results import EpochRecord, choose_best
from strzoo.training.run_page import write_run_page
from strzoo.training.run_plot import plot_layers, plot_run
from strzoo.zoo.budgets import Budget, write_budget

log = logging.getLogger(__name__)


def write_report(
    folder: RunFolder,
    config: TrainConfig,
    history: Sequence[EpochRecord],
    input_size: tuple[int, ...],
    options: Mapping[str, Any],
) -> None:
    """Write the report of a finished run. Without matplotlib there are no plots, and the report
    says so.

    Args:
        folder, config, history: of the run.
        input_size: channels, height, width of an image.
        options: of the network, as `create_model` takes them.
    """
    best, last = choose_best(list(history)), history[-1]
    shown = best or last
    budget = Budget(
        name=folder.path.name,
        architecture=config.architecture,
        method=config.method,
        sparsity=shown.sparsity,
        source=f"epoch {shown.epoch} of a run of strzoo train",
        layers={name: layer.sparsity for name, layer in shown.layers.items()},
        num_classes=config.num_classes,
        input_size=input_size,
        options=options,
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
    different = {name: value for name, (_, value) in changed.items() if name != "about"}
    title = config.recipe or config.architecture
    write_run_page(folder.path / "report.html", title, history, shown, different)


def _row(record: EpochRecord | None) -> dict[str, Any] | None:
    return None if record is None else record.to_dict()


def _draw(folder: Path, history: Sequence[EpochRecord], shown: EpochRecord) -> list[Path]:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        log.warning("no plots in the report: %s", install_advice("plot"))
        return []
    progress, layers = folder / "progress.png", folder / "layers.png"
    return [
        plot_run(history, shown, progress, force=True),
        plot_layers(shown, layers, force=True),
    ]
