"""`strzoo tradeoff`: accuracy and latency at several sparsities, and which of them pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import (
    force_option,
    json_option,
    plot_option,
    settings_options,
    split_list,
    verbosity_options,
)
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.steps import show_steps
from strzoo.errors import UsageError
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.benchmarking.tradeoff_results import TradeoffResult

HEADER = ("zeros %", "engine", "top-1 %", "p50 ms", "fastest ms", "ratio")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--data",
    required=True,
    help="Folder of images (train and val, or class folders); or 'digits' (bundled).",
)
@click.option("--validation", help="Labelled images, if they are not found in --data.")
@click.option(
    "--sparsities", default="0,50,70,80,90,95", show_default=True, help="Percent of zeros."
)
@click.option(
    "--method",
    type=click.Choice(["obc", "magnitude"]),
    default="obc",
    show_default=True,
    help="How to prune at once, as in strzoo prune.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Fine-tune to each sparsity for so long; 0 prunes at once.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Images to prune by.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Points of top-1 that speed may cost.",
)
@click.option(
    "--engines", default="onnxruntime,int8,sparse", show_default=True, help="Of these three."
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Images per timed call.",
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: as torch chooses]")
@click.option(
    "--runs", type=click.IntRange(min=1), default=30, show_default=True, help="Timed calls of each."
)
@click.option("--workers", type=click.IntRange(min=0), help="Decoders [default: one per core].")
@plot_option
@force_option
@json_option
@settings_options
@verbosity_options
def tradeoff(
    model: str,
    data: str,
    validation: str | None,
    sparsities: str,
    method: str,
    epochs: int,
    images: int,
    max_loss: float,
    engines: str,
    batch: int,
    threads: int | None,
    runs: int,
    workers: int | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """What sparsity costs MODEL in accuracy and buys in time on this machine.

    At each sparsity the network is pruned at once (or fine-tuned, --epochs), evaluated, and timed
    on onnxruntime, on onnxruntime in int8 and on the sparse engine, all in turn. Ends with one
    recommendation and its reason.
    """
    from strzoo.benchmarking.tradeoff import tradeoff as run
    from strzoo.benchmarking.tradeoff_plot import plot_tradeoff
    from strzoo.pictures import check_plot

    if plot is not None:
        check_plot(plot, force=force)
    with show_steps(quiet=quiet) as show:
        made = run(
            model,
            data,
            validation=validation,
            sparsities=_read_percents(sparsities),
            method=method,
            epochs=epochs,
            images=images,
            max_loss=max_loss,
            engines=split_list(engines),
            batch=batch,
            threads=threads,
            runs=runs,
            workers=workers,
            settings=settings,
            on_step=show,
        )
    if plot is not None:
        plot_tradeoff(made, plot, force=force)
    if as_json:
        print_json(made.to_dict())
        return
    _print(made)
    if plot is not None:
        say(f"plot: {plot}")


def _read_percents(text: str) -> list[float]:
    try:
        found = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= one < 1 for one in found):
        raise UsageError(f"--sparsities {text!r} is not a list of percents such as 50,80,90")
    return found


def _print(made: TradeoffResult) -> None:
    taken = (made.recommendation.sparsity, made.recommendation.engine)
    rows = [
        (
            f"{'> ' if (point.sparsity, point.engine) == taken else ''}{point.sparsity:.2f}",
            point.engine,
            f"{point.top1:.2f}",
            f"{point.p50:.3f}",
            f"{point.fastest:.3f}",
            f"{point.ratio:.2f}",
        )
        for point in made.points
    ]
    title = f"{made.model}, {made.how}: top-1 on {made.images:,} images"
    print_table(simple_table(HEADER, rows, left=2, title=title))
    for note in made.notes:
        say(f"note: {note}")
    say(
        "ms for one batch, median; ratio: the given network on onnxruntime / this row, above 1 is "
        "faster; int8: onnxruntime"
    )
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    say(f"{made.machine}; {made.threads} threads; batch {made.batch}; {versions}")
    say(f"recommendation: {made.recommendation.reason}")
