"""The paper's tables beside what strzoo computes and what the user's own runs reached.

Params and FLOPs are computed from the sparsity of each layer, where that is at hand; without it
the params still follow from the printed sparsity. Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

from strzoo.analysis.comparison import parse_figure, print_like
from strzoo.analysis.dense_counts import shipped_counts
from strzoo.analysis.paper_runs import PaperRankRun, PaperRun, find_rank_runs, find_runs
from strzoo.analysis.report import report_budget
from strzoo.analysis.results import DenseCounts
from strzoo.arguments import checked
from strzoo.settings import user_path
from strzoo.zoo.budgets import Budget, load_budget, rounding
from strzoo.zoo.paper import (
    PaperHyperparameters,
    PaperRank,
    PaperResult,
    PaperTable,
    find_paper_result,
    load_paper_table,
    read_paper,
)


@dataclass(frozen=True)
class PaperLine:
    """A row of a result table with what belongs to it.

    `computed_params` and `computed_flops` are whole numbers (FLOPs as the paper prints them:
    multiply-accumulates), the latter None where nothing says how sparse each layer is.
    `differences` has a text for each printed figure that does not follow from these. `command`
    repeats the experiment, None where strzoo has no recipe for it; `runs` are the user's, the best
    first.
    """

    result: PaperResult
    computed_params: int
    computed_flops: int | None
    differences: tuple[str, ...]
    command: str | None
    runs: tuple[PaperRun, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **asdict(self.result),
            "computed_params": self.computed_params,
            "computed_flops": self.computed_flops,
            "differences": list(self.differences),
            "command": self.command,
            "runs": _spell_runs(self.runs),
        }


@dataclass(frozen=True)
class PaperSetting:
    """A row of hyperparameters or of ranks, the command that trains with them, and the user's runs
    that did, the best first."""

    row: PaperHyperparameters | PaperRank
    command: str
    runs: tuple[PaperRun, ...] | tuple[PaperRankRun, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self.row), "command": self.command, "runs": _spell_runs(self.runs)}


@dataclass(frozen=True)
class PaperComparison:
    """A table of the paper: `lines` are those of a table of results, `settings` those of a table of
    hyperparameters or ranks."""

    table: PaperTable
    source: str
    lines: tuple[PaperLine, ...] = ()
    settings: tuple[PaperSetting, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "schema": 1,
            "number": self.table.number,
            "title": self.table.title,
            "source": self.source,
            "notes": list(self.table.notes),
            "rows": [line.to_dict() for line in self.lines]
            + [setting.to_dict() for setting in self.settings],
        }


@checked
def compare_paper_table(
    number: str | int, *, runs: str | os.PathLike[str] | None = None
) -> PaperComparison:
    """A table of the paper with recomputed figures, the commands that repeat it, and own runs.

    Args:
        number: of the table, one of `list_paper_tables()`.
        runs: a run folder, or a folder of them; a run belongs to the rows that name its recipe, a
            FastGRNN run to the pairs of ranks that it passed through.

    Returns:
        A line per row of the table: as printed, recomputed, and as measured in the runs.

    Raises:
        UnknownNameError: strzoo has no table of that number.
        StrzooError: `runs` is no folder, or holds no run.
        IntegrityError: a file of a run is damaged.
    """
    table, source = load_paper_table(number), read_paper().source
    folder = None if runs is None else user_path(runs)
    if table.ranks:
        passed = () if folder is None else find_rank_runs(folder)
        ranks = tuple(_match_ranks(row, passed) for row in table.ranks)
        return PaperComparison(table, source, settings=ranks)
    own: dict[str, list[PaperRun]] = {}
    for run in () if folder is None else find_runs(folder):
        own.setdefault(run.recipe, []).append(run)
    settings = tuple(
        PaperSetting(row, _command(row.recipe), tuple(own.get(row.recipe, ())))
        for row in table.hyperparameters
    )
    lines = tuple(_compare(row, own.get(row.recipe or "", ())) for row in table.results)
    return PaperComparison(table, source, lines, settings)


def _match_ranks(row: PaperRank, runs: Iterable[PaperRankRun]) -> PaperSetting:
    place = (row.dataset, row.rank_w, row.rank_u)
    own = tuple(run for run in runs if (run.dataset, run.rank_w, run.rank_u) == place)
    return PaperSetting(row, _command(row.recipe), own)


def _command(recipe: str) -> str:
    return f"strzoo train {recipe} data=FOLDER"


def _spell_runs(runs: Iterable[PaperRun] | Iterable[PaperRankRun]) -> list[dict[str, Any]]:
    return [{**asdict(run), "folder": str(run.folder)} for run in runs]


def _compare(row: PaperResult, runs: Sequence[PaperRun]) -> PaperLine:
    counts = shipped_counts(row.architecture)
    assert counts is not None  # of both architectures in the paper
    budget = _find_budget(row, counts)
    differences: list[str] = []
    if budget is None:
        weights = sum(layer.weights for layer in counts.layers)
        params, flops, doubt = (
            round(weights * (1 - row.sparsity / 100)),
            None,
            0.005 * weights / 100,
        )
    else:
        report = report_budget(budget)
        assert report.nonzeros is not None
        assert report.sparsity is not None
        assert report.dense_macs is not None
        params, flops = report.nonzeros, report.sparse_macs
        points = 0.0 if row.uniform is not None else rounding(budget.layers.values())
        doubt = points / 100 * report.weights
        if abs(report.sparsity - row.sparsity) > points + 0.005:
            differences.append(f"sparsity {row.sparsity:.2f} %, computed {report.sparsity:.2f} %")
        if row.flops is not None and flops is not None:
            printed = row.flops.removeprefix("~")
            # Some rows of the paper leave out the average pool.
            layers = flops - sum(report.other_macs.values())
            margin = points / 100 * report.dense_macs
            if not any(_prints_as(printed, value, margin) for value in (flops, layers)):
                differences.append(f"FLOPs {row.flops}, computed {print_like(flops, printed)}")
    if not (_prints_as(row.params, params, doubt) or _is_otherwise_counted(row, counts)):
        differences.insert(0, f"params {row.params}, computed {print_like(params, row.params)}")
    command = None if row.recipe is None else _command(row.recipe)
    return PaperLine(row, params, flops, tuple(differences), command, tuple(runs))


def _find_budget(row: PaperResult, counts: DenseCounts) -> Budget | None:
    """The sparsity of each layer, from the row's uniform rate or its budget file."""
    if row.uniform is None:
        return None if row.budget is None else load_budget(row.budget)
    layers = {
        layer.name: 0.0 if any(fnmatch(layer.name, p) for p in row.keep_dense) else row.uniform
        for layer in counts.layers
    }
    name = f"{row.architecture}, {row.uniform:g} % of each layer"
    return Budget(name, row.architecture, row.method, row.sparsity, "uniform", layers)


def _prints_as(printed: str, value: float, doubt: float) -> bool:
    """Whether some number within `doubt` of `value` is printed like that."""
    published, *_ = parse_figure(printed)
    shown, *_ = parse_figure(print_like(value, printed))
    if shown == published:
        return True
    nearest = min(max(published, value - doubt), value + doubt)
    return print_like(nearest, printed) == printed


def _is_otherwise_counted(row: PaperResult, counts: DenseCounts) -> bool:
    """Whether the printed params are the paper's other counts: dense networks with BatchNorm, and
    sparse ones as a share of the printed dense figure."""
    if not row.sparsity:
        return print_like(counts.params, row.params) == row.params
    dense = find_paper_result(f"{row.architecture}_dense")
    assert dense is not None
    total, *_ = parse_figure(dense.params)
    return print_like(total * (1 - row.sparsity / 100), row.params) == row.params
