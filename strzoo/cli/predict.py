"""`strzoo predict`: the most likely classes of images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.evaluate import (
    engine_option,
    make_preprocessing,
    output_choice_options,
    preprocessing_options,
)
from strzoo.cli.options import json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.errors import UsageError
from strzoo.settings import Limits, Settings


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.argument("images", nargs=-1, required=True)
@click.option(
    "-k", "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to name."
)
@click.option(
    "--classes",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Names of the model's classes, one a line.",
)
@click.option("--format", type=click.Choice(["str", "dense"]), help="Use or make this form.")
@click.option("--device", help="cpu, cuda or cuda:N [default: a GPU if there is one].")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto: fp32 on the CPU, tf32 on a GPU.",
)
@click.option("--provider", "providers", multiple=True, help="Execution provider of an ONNX file.")
@engine_option
@output_choice_options
@preprocessing_options
@click.option("--allow-urls", is_flag=True, help="Fetch http and https addresses.")
@click.option("--skip-broken", is_flag=True, help="Report unreadable images and go on.")
@json_option
@settings_options
@verbosity_options
def predict(
    model: str,
    images: tuple[str, ...],
    classes: Path | None,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    as_json: bool,
    settings: Settings,
    quiet: bool,
    **options: Any,
) -> None:
    """The most likely classes of IMAGES: files, folders, addresses (with --allow-urls), or - for
    an image on standard input.

    MODEL is an id, a checkpoint, an ONNX file or a .strz file.
    """
    from strzoo.data.labels import read_class_names
    from strzoo.evaluation.predict import predict as run
    from strzoo.hub.resolve import resolve

    if images.count("-") > 1:
        raise UsageError("- is given twice; standard input holds one image")
    given: list[str | bytes] = [_read_input(settings.limits) if i == "-" else i for i in images]
    source = resolve(model, format=options["format"], settings=settings)
    preprocessing = make_preprocessing(
        source, resize=resize, crop=crop, interpolation=interpolation, mean=mean, std=std
    )
    made = run(
        source,
        given,
        class_names=read_class_names(classes) if classes else (),
        preprocessing=preprocessing,
        **options,
    )
    if "-" in images:
        shown = f"image {images.index('-') + 1}"
        made = [
            replace(one, source="standard input") if one.source == shown else one for one in made
        ]
    if as_json:
        print_json({"schema": 1, "predictions": [p.to_dict() for p in made]})
    else:
        rows = []
        for one in made:
            if one.error:
                rows.append((one.source, f"unreadable: {one.error}", "", ""))
            for place, guess in enumerate(one.guesses):
                chance = f"{100 * guess.probability:.2f}"
                rows.append((one.source if place == 0 else "", guess.name, guess.wnid, chance))
        header = ("image", "class", "wnid", "probability %")
        print_table(simple_table(header, rows, left=3, wrap=("class",), optional=("wnid",)))
    if not quiet and (bad := sum(1 for p in made if p.error)):
        say(f"strzoo: WARNING: {bad} of {len(made)} images are unreadable", err=True)


def _read_input(limits: Limits) -> bytes:
    content = sys.stdin.buffer.read(limits.bytes + 1)
    limits.check("bytes", len(content), "standard input")
    return content
