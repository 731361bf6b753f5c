"""`strzoo prune`: a network made sparse at once, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import force_option, json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.progress import spell_bytes
from strzoo.cli.report import parse_size
from strzoo.cli.steps import show_steps
from strzoo.settings import Settings
from strzoo.spelling import spell_change

if TYPE_CHECKING:
    from strzoo.pruning.results import PruneResult

HEADER = ("layer", "shape", "weights", "sparsity %", "output error")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--data",
    required=True,
    help="Folder of images to calibrate on, without labels; or 'photographs', 'digits' (bundled).",
)
@click.option("--sparsity", required=True, type=float, help="Fraction of zeros, as in 0.8.")
@click.option(
    "--method",
    type=click.Choice(["obc", "magnitude"]),
    default="obc",
    show_default=True,
    help="obc: second order, what stays is solved for; magnitude: the smallest go.",
)
@click.option(
    "--images", type=click.IntRange(min=1), default=512, show_default=True, help="How many to use."
)
@click.option("--validation", help="Labelled images: accuracy before and after.")
@click.option("--skip", multiple=True, metavar="PATTERN", help="Layers to leave dense.")
@click.option("--input-size", help="SIZE, HxW or CxHxW  [default: what the model was made for]")
@click.option("--workers", type=click.IntRange(min=0), help="Decoders [default: one per core].")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="A .pth, .pt or .safetensors to write."
)
@force_option
@json_option
@settings_options
@verbosity_options
def prune(
    model: str,
    data: str,
    sparsity: float,
    method: str,
    images: int,
    validation: str | None,
    skip: tuple[str, ...],
    input_size: str | None,
    workers: int | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Make MODEL (an id or a checkpoint file) sparse at once, without training.

    From second-order statistics of a few hundred images follows what each weight costs; the
    cheapest of the whole network become zero, the others make up for them, and BatchNorm
    statistics are taken again. A start for `strzoo train finetune start_from=FILE`.
    """
    from strzoo.pruning.prune import prune as run

    with show_steps(quiet=quiet) as show:
        made = run(
            model,
            data,
            sparsity,
            method=method,
            images=images,
            validation=validation,
            output=output,
            skip=skip,
            input_size=None if input_size is None else parse_size(input_size),
            workers=workers,
            force=force,
            settings=settings,
            on_step=show,
        )
    if as_json:
        print_json(made.to_dict())
        return
    _print(made)


def _print(made: PruneResult) -> None:
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.weights:,}",
            f"{layer.sparsity:.2f}",
            f"{layer.error:.3g}",
        )
        for layer in made.layers
    ]
    print_table(simple_table(HEADER, rows, left=2))
    say(
        f"{made.model}: {made.before_sparsity:.2f} % zeros before, {made.sparsity:.2f} % now "
        f"({made.method}, {made.images} images, statistics of {made.batchnorms} BatchNorms taken "
        f"again) in {made.seconds:.1f} s"
    )
    if made.before is not None and made.after is not None and made.lost is not None:
        low, high = made.after.interval
        say(
            f"top-1 {made.before.top1:.2f} % before, {made.after.top1:.2f} % after "
            f"({spell_change(-made.lost)} points; 95 % interval {low:.2f} to {high:.2f} %, "
            f"{made.after.images:,} images)"
        )
    if made.file is not None:
        say(f"file: {made.file}, {spell_bytes(made.file.stat().st_size)}")
