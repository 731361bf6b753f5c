"""`strzoo compare`: several models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import (
    force_option,
    html_option,
    json_option,
    plot_option,
    settings_options,
    verbosity_options,
)
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.evaluation.compare_results import ModelComparison


@click.command()
@click.argument("models", nargs=-1, required=True, shell_complete=complete_model)
@click.option("--no-predictions", is_flag=True, help="Do not run the models on photographs.")
@plot_option
@html_option
@force_option
@json_option
@settings_options
@verbosity_options
def compare(
    models: tuple[str, ...],
    no_predictions: bool,
    plot: Path | None,
    page: Path | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Compare MODELS (ids, checkpoints, ONNX and .strz files): totals, layers, masks, answers.

    Masks and answers need weights: ids that are not in the cache are compared by their budgets.
    """
    from strzoo.evaluation.compare import compare as run
    from strzoo.files import check_destination
    from strzoo.pictures import check_plot

    if plot is not None:
        check_plot(plot, force=force)
    if page is not None:
        check_destination(page, force=force)
    made = run(models, predictions=not no_predictions, settings=settings)
    if plot is not None:
        from strzoo.evaluation.compare_plot import plot_comparison

        plot_comparison(made, plot, force=force)
    if page is not None:
        from strzoo.evaluation.compare_page import write_comparison_page

        write_comparison_page(made, page, force=force)
    if as_json:
        print_json(made.to_dict())
    else:
        _print(made)
    for written in (plot, page):
        if written is not None and not quiet:
            say(f"wrote {written}", err=True)


def _print(made: ModelComparison) -> None:
    rows = []
    for one in made.totals:
        counts = (one.weights, one.nonzeros, one.sparsity, one.dense_macs, one.sparse_macs)
        rows.append((one.name, one.source, *map(_spell, (*counts, one.published_top1))))
    header = ["model", "from", "weights", "nonzeros", "sparsity %", "dense MACs", "sparse MACs"]
    if any(one.published_top1 is not None for one in made.totals):
        header.append("published top-1 %")
    optional = ("from", "published top-1 %", "weights", "dense MACs")
    more = "params, FLOPs, published figures"
    _show(header, [row[: len(header)] for row in rows], "totals", 2, optional, more)
    layers = [(one.name, *map(_spell, (*one.sparsity, one.spread))) for one in made.layers]
    header = ["layer", *made.names, "spread"]
    _show(header, layers, "sparsity %", more="shapes and MACs of the layers")
    pairs = [
        (m.first, m.second, *map(_spell, (m.both, m.either, m.overlap, m.chance, m.layers)))
        for m in made.masks
    ]
    masks = ("first", "second", "in both", "in either", "overlap %", "by chance %", "layers")
    _show(masks, pairs, "nonzero weights", left=2)
    answers = [
        (a.first, a.second, *map(_spell, (a.top1, a.top5, a.images))) for a in made.agreement
    ]
    same = ("first", "second", "same class %", "same of five %", "images")
    _show(same, answers, "answers on the bundled photographs", left=2)
    for note in made.notes:
        say(f"note: {note}")


def _show(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str,
    left: int = 1,
    optional: Sequence[str] = (),
    more: str = "",
) -> None:
    if rows:
        table = simple_table(header, rows, left=left, title=title, optional=optional)
        print_table(table, more=more)


def _spell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
