"""`strzoo matrices`: the weights of every layer as sparse matrix files."""

from __future__ import annotations

from pathlib import Path

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import (
    force_option,
    json_option,
    settings_options,
    split_list,
    verbosity_options,
)
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.report import parse_size
from strzoo.cli.steps import show_count
from strzoo.errors import UsageError
from strzoo.settings import Settings

HEADER = ("layer", "m", "k", "n", "groups", "stride", "input", "nonzeros", "sparsity %")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to make: one file per layer and format, and index.json.",
)
@click.option(
    "--formats",
    default="npz,mtx,smtx",
    show_default=True,
    help="npz: CSR; mtx: Matrix Market; smtx: DLMC, the pattern alone.",
)
@click.option("--input-size", help="SIZE, HxW or CxHxW  [default: what the model was made for]")
@click.option(
    "--images",
    help="Also write each layer's input for these images: a folder, 'photographs' or 'digits'.",
)
@click.option(
    "--max-images", type=click.IntRange(min=1), help="At most so many of --images  [default: 4]"
)
@force_option
@json_option
@settings_options
@verbosity_options
def matrices(
    model: str,
    output: Path,
    formats: str,
    input_size: str | None,
    images: str | None,
    max_images: int | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Write the effective weight matrix of every layer of MODEL (id, checkpoint or ONNX file).

    A layer computes, per image and group, an m x k sparse matrix times the k x n im2col columns.
    An id whose weights cannot be had gets random ones, pruned to its published budget.
    """
    from strzoo.matrices.export import export_matrices

    names = split_list(formats)
    if not names:
        raise UsageError("--formats is empty; choose from npz, mtx, smtx")
    if max_images is not None and images is None:
        raise UsageError("--max-images is for the images of --images, which is not given")
    with show_count("layers", quiet=quiet) as progress:
        made = export_matrices(
            model,
            output,
            formats=names,
            input_size=None if input_size is None else parse_size(input_size),
            images=images,
            max_images=max_images or 4,
            force=force,
            settings=settings,
            progress=progress,
        )
    if as_json:
        print_json(made.to_dict())
        return
    rows = [
        (
            layer.layer,
            str(layer.m),
            str(layer.k),
            str(layer.n),
            str(layer.groups),
            "x".join(map(str, layer.stride)),
            "x".join(map(str, layer.input_size)),
            f"{layer.nonzeros:,}",
            f"{layer.sparsity:.2f}",
        )
        for layer in made.layers
    ]
    optional = ("groups", "stride", "input")
    title = made.model if made.source == "weights" else f"{made.model} ({made.source})"
    print_table(simple_table(HEADER, rows, title=title, optional=optional))
    inputs = f", inputs of {made.images} images" if made.images else ""
    say(
        f"{made.path}: {len(made.layers)} layers as {', '.join(made.formats)}{inputs}, "
        f"{made.bytes / 1e6:.1f} MB"
    )
