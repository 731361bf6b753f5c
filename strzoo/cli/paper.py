"""`strzoo paper`: the paper's tables, beside what repeats them and what own runs reached."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from strzoo.cli.completion import complete_table
from strzoo.cli.options import force_option, json_option, plot_option
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.errors import UsageError
from strzoo.zoo.paper import PaperRank, read_paper

if TYPE_CHECKING:
    from collections.abc import Iterable

    from strzoo.analysis.paper import PaperComparison, PaperLine, PaperSetting
    from strzoo.analysis.paper_runs import PaperRankRun, PaperRun

_TEXT = ("table", "architecture", "dataset", "differs", "id", "budget", "recipe", "command")
_WRAP = ("title", "method", "keeps dense", "own runs")
# What a narrow terminal may lack, the first first.
_OPTIONAL = ("command", "keeps dense", "budget", "id", "differs", "recipe", "FLOPs", "params",
             "fixed %", "dataset", "architecture")  # fmt: skip


@click.command()
@click.argument("table", required=False, shell_complete=complete_table)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    help="Show the runs of this folder (a run folder, or a folder of them) beside their rows.",
)
@click.option("--figure", type=int, metavar="N", help="Draw figure N (1 to 9) with --plot.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@plot_option
@force_option
def paper(
    table: str | None,
    runs: Path | None,
    figure: int | None,
    as_json: bool,
    as_csv: bool,
    plot: Path | None,
    force: bool,
) -> None:
    """Show TABLE of the STR paper (arXiv:2002.03231), or list the tables.

    \b
    strzoo paper 1
    strzoo paper 1 --runs runs --plot table1.png
    strzoo paper --figure 6 --plot figure6.png

    Beside each row stand the model, the budget, the recipe and the command that repeats it. Params
    and FLOPs are recomputed where the sparsity of each layer is known; what differs is said.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    if figure is not None:
        _draw_figure(table, figure, runs, plot, force, as_json or as_csv)
        return
    if table is None:
        if runs is not None or plot is not None:
            raise UsageError("--runs and --plot need the number of a table, or --figure N")
        _list(as_json, as_csv)
        return
    from strzoo.analysis.paper import compare_paper_table

    if plot is not None:
        from strzoo.pictures import check_plot

        check_plot(plot, force=force)
    made = compare_paper_table(table, runs=runs)
    if plot is not None:
        from strzoo.analysis.paper_plot import plot_paper_table

        plot_paper_table(made, plot, force=force)
        say(f"wrote {plot}", err=True)
    if as_json:
        print_json(made.to_dict())
        return
    header, rows = _cells(made, with_runs=runs is not None)
    if as_csv:
        _print_csv(header, rows)
        return
    title = f"Table {made.table.number}. {made.table.title}"
    print_table(
        simple_table(header, rows, left=0, text=_TEXT, wrap=_WRAP, optional=_OPTIONAL, title=title)
    )
    for note in made.table.notes:
        say(f"note: {note}")
    for line in made.lines:
        for difference in line.differences:
            say(f"differs: {line.result.method}, {line.result.sparsity:.2f} %: {difference}")
    say(f"source: {made.source}")


def _draw_figure(
    table: str | None, figure: int, runs: Path | None, plot: Path | None, force: bool, printed: bool
) -> None:
    from strzoo.analysis.paper_figures import FIGURES, plot_paper_figure

    if table is not None or printed:
        raise UsageError("--figure goes with --plot, --runs and --force alone")
    if plot is None:
        shown = "; ".join(f"{one.number}: {one.title}" for one in FIGURES.values())
        raise UsageError(f"--figure needs --plot FILE. The figures: {shown}")
    say(f"wrote {plot_paper_figure(figure, plot, runs=runs, force=force)}", err=True)


def _list(as_json: bool, as_csv: bool) -> None:
    found = read_paper()
    header = ("table", "title", "rows")
    rows = [(t.number, t.title, str(len(t.rows))) for t in found.tables]
    if as_json:
        document = [dict(zip(header, (n, t, int(r)), strict=True)) for n, t, r in rows]
        print_json({"schema": 1, "source": found.source, "tables": document})
    elif as_csv:
        _print_csv(header, rows)
    else:
        print_table(simple_table(header, rows, left=0, text=_TEXT, wrap=_WRAP))
        say("strzoo paper TABLE shows one; strzoo budgets list shows the appendix's budgets")
        say(f"source: {found.source}")


def _cells(made: PaperComparison, *, with_runs: bool) -> tuple[tuple[str, ...], list[Any]]:
    """Header and rows as texts; columns that are empty throughout are left out."""
    rows = [_result_cells(line, with_runs) for line in made.lines]
    rows += [_setting_cells(setting, with_runs) for setting in made.settings]
    header = tuple(name for name in rows[0] if any(row[name] for row in rows) or name == "own runs")
    return header, [tuple(row[name] for name in header) for row in rows]


def _result_cells(line: PaperLine, with_runs: bool) -> dict[str, str]:
    row = line.result
    own = _own_runs(line.runs) if with_runs else {}
    return {
        "method": row.method,
        "top-1 %": f"{row.top1:.2f}",
        **own,
        "sparsity %": f"{row.sparsity:.2f}",
        "params": row.params,
        "FLOPs": row.flops or "-",
        "differs": "yes" if line.differences else "",
        "keeps dense": ", ".join(row.dense),
        "id": row.model or "",
        "budget": row.budget or ("" if row.uniform is None else f"{row.uniform:g} %"),
        "recipe": row.recipe or "",
        "command": line.command or "",
    }


def _own_runs(runs: Iterable[PaperRun | PaperRankRun]) -> dict[str, str]:
    return {"own runs": "; ".join(map(_spell_run, runs)) or "none"}


def _spell_run(run: PaperRun | PaperRankRun) -> str:
    from strzoo.analysis.paper_runs import PaperRun

    if not isinstance(run, PaperRun):
        return f"{run.top1:.2f} {'learned' if run.learned else 'fixed'}"
    state = "" if run.finished else f", epoch {run.epoch} so far"
    return f"{run.top1:.2f} at {run.sparsity:.2f} %{state}"


def _setting_cells(setting: PaperSetting, with_runs: bool) -> dict[str, str]:
    row = setting.row
    own = _own_runs(setting.runs) if with_runs else {}
    repeated = {"recipe": row.recipe, "command": setting.command}
    if isinstance(row, PaperRank):
        return {
            "dataset": row.dataset,
            "rank of W": str(row.rank_w),
            "rank of U": str(row.rank_u),
            "fixed %": "" if row.fixed is None else f"{row.fixed:.2f}",
            "learned %": "" if row.learned is None else f"{row.learned:.2f}",
            "weight decay": "" if row.weight_decay is None else f"{row.weight_decay:g}",
            **own,
            **repeated,
        }
    return {
        "architecture": row.architecture,
        "sparsity %": f"{row.sparsity:.2f}",
        "weight decay": f"{row.weight_decay:.10g}",
        "s_init": f"{row.s_init:g}",
        **own,
        **repeated,
    }


def _print_csv(header: tuple[str, ...], rows: list[Any]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    say(text.getvalue(), nl=False)
