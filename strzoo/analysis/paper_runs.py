"""Run folders of `strzoo train`, read for what they reached: accuracy, and sparsity or ranks.

Read as files (report.json of a finished run, results.csv and config.yaml of another, result.json of
FastGRNN), so that nothing of the training, and no torch, is imported.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strzoo.borders import read_text, reading
from strzoo.errors import StrzooError
from strzoo.strict_json import read_json

_REPORT, _RESULTS, _CONFIG = "report.json", "results.csv", "config.yaml"
_RANKS, _LAYERS = "result.json", "layers.json"
_KIND = "a run of strzoo train"
_LEVELS = ("", "*/", "*/*/")  # runs/RECIPE/SEED is as deep as folders are searched


@dataclass(frozen=True)
class PaperRun:
    """The best epoch of a run, or the last where none was as sparse as it was meant to be. `top1`
    and `sparsity` are percent; `finished` says that the run came to its end."""

    recipe: str
    folder: Path
    epoch: int
    top1: float
    sparsity: float
    finished: bool


@dataclass(frozen=True)
class PaperRankRun:
    """The best epoch of a FastGRNN run at one pair of ranks; `top1` is percent, `learned` says that
    the ranks were."""

    dataset: str
    rank_w: int
    rank_u: int
    learned: bool
    folder: Path
    epoch: int
    top1: float


@dataclass(frozen=True)
class LayerHistory:
    """The layers of a run over its epochs: weights, percent of zeros and threshold by layer name;
    the thresholds of a layer that learns none are None."""

    epochs: list[int]
    weights: dict[str, int]
    sparsity: dict[str, list[float]]
    thresholds: dict[str, list[Any]]


def read_layers(folder: Path) -> LayerHistory:
    """What layers.json of a run says.

    Raises:
        StrzooError: there is no such file.
        IntegrityError: it is not what `strzoo train` writes.
    """
    with reading(folder / _LAYERS, "the layers of a run"):
        document = read_json(folder / _LAYERS)
        epochs, layers = [int(epoch) for epoch in document["epochs"]], document["layers"]
        made = LayerHistory(
            epochs,
            {name: int(layer["weights"]) for name, layer in layers.items()},
            {name: [float(v) for v in layer["sparsity"]] for name, layer in layers.items()},
            {name: list(layer["threshold"]) for name, layer in layers.items()},
        )
        for values in (*made.sparsity.values(), *made.thresholds.values()):
            if len(values) != len(epochs) or not epochs:
                raise ValueError(f"{len(values)} values of {len(epochs)} epochs")
    return made


def find_runs(folder: Path) -> list[PaperRun]:
    """The runs in `folder` and two levels below, the best accuracy first. Runs without a finished
    epoch are left out.

    Raises:
        StrzooError: there is no such folder, or no run in it.
        IntegrityError: a file of a run is not what `strzoo train` writes.
    """
    runs = [run for run in map(_read, _find(folder, _CONFIG)) if run is not None]
    return sorted(runs, key=lambda run: -run.top1)


def find_rank_runs(folder: Path) -> list[PaperRankRun]:
    """The pairs of ranks that FastGRNN runs in `folder` and two levels below passed through, the
    best accuracy first. Networks of several layers or directions are left out.

    Raises: as `find_runs`.
    """
    found = [run for place in _find(folder, _RANKS) for run in _read_ranks(place)]
    return sorted(found, key=lambda run: -run.top1)


def _find(folder: Path, name: str) -> list[Path]:
    """The folders with a file of that name."""
    if not folder.is_dir():
        raise StrzooError(f"{folder} is not a folder of runs")
    places = sorted({path.parent for level in _LEVELS for path in folder.glob(level + name)})
    if not places:
        raise StrzooError(f"{folder} holds no run of strzoo train: no {name} two levels down")
    return places


def _read_ranks(folder: Path) -> list[PaperRankRun]:
    with reading(folder, _KIND):
        document = read_json(folder / _RANKS)
        config = document["config"]
        learned = "learned" in (config["rank_w"], config["rank_u"])
        return [
            PaperRankRun(
                str(config["dataset"]), int(row["rank_w"][0]), int(row["rank_u"][0]), learned,
                folder, int(row["epoch"]), float(row["top1"]),
            )
            for row in document["by_rank"]
            if len(row["rank_w"]) == 1
        ]  # fmt: skip


def _read(folder: Path) -> PaperRun | None:
    with reading(folder, _KIND):
        if (folder / _REPORT).exists():
            document = read_json(folder / _REPORT)
            row = document["best"] or document["last"]
            return _build(str(document["recipe"]), folder, row, finished=True)
        if not (folder / _RESULTS).exists():
            return None
        rows = list(csv.DictReader(io.StringIO(read_text(folder / _RESULTS, "a table"))))
        if not rows:
            return None
        meant = [row for row in rows if row["candidate"] == "True"]
        best = max(meant, key=lambda row: (float(row["top1"]), int(row["epoch"])), default=rows[-1])
        return _build(_read_recipe(folder / _CONFIG), folder, best, finished=False)


def _build(recipe: str, folder: Path, row: Any, *, finished: bool) -> PaperRun:
    epoch, top1, sparsity = int(row["epoch"]), float(row["top1"]), float(row["sparsity"])
    return PaperRun(recipe, folder, epoch, top1, sparsity, finished)


def _read_recipe(path: Path) -> str:
    from strzoo.strict_yaml import read_yaml

    return str(read_yaml(path, "a recipe in YAML")["recipe"])
