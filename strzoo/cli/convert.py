"""`strzoo convert`: a checkpoint in another form."""

from __future__ import annotations

from pathlib import Path

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import force_option, json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, say
from strzoo.cli.progress import spell_bytes
from strzoo.settings import Settings


@click.command()
@click.argument("source", shell_complete=complete_model)
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "format",
    type=click.Choice(["dense", "str"]),
    default="dense",
    show_default=True,
    help="dense: plain convolutions; str: keep the thresholds, drop optimizer state.",
)
@click.option(
    "--layout",
    type=click.Choice(["strzoo", "torchvision", "timm"]),
    default="strzoo",
    show_default=True,
    help="Key names and classifier of that library.",
)
@click.option("--compact", is_flag=True, help="Bitmask and values: small files, lossless.")
@click.option("--half", is_flag=True, help="Store convolution weights as fp16.")
@click.option("--verify", is_flag=True, help="Read the result back and compare logits.")
@click.option(
    "--entry", help="Of a file with several state dicts, the one to take, such as model_ema."
)
@force_option
@json_option
@settings_options
@verbosity_options
def convert(
    source: str,
    destination: Path,
    format: str,
    layout: str,
    compact: bool,
    half: bool,
    verify: bool,
    entry: str | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Convert SOURCE (an id or a checkpoint file) and write DESTINATION.

    DESTINATION ends in .pth, .pt or .safetensors, which decides the kind of file. A FastGRNN file
    is folded; strzoo rnn convert has its other forms.
    """
    from strzoo.hub.convert import convert as convert_model

    made = convert_model(
        source,
        destination,
        format=format,
        layout=layout,
        compact=compact,
        half=half,
        verify=verify,
        entry=entry,
        force=force,
        settings=settings,
    )
    if as_json:
        print_json(made.to_dict())
        return
    form = " ".join(
        [made.format, *(["compact"] * compact), *(["fp16"] * half), f"({layout} layout)"]
    )
    checked = ", logits equal the source's" if made.verified else ""
    say(
        f"{made.path}: {made.architecture}, {made.source_format} -> {form}, "
        f"sparsity {made.sparsity:.2f} %, {spell_bytes(made.bytes)} "
        f"(source {spell_bytes(made.source_bytes)}){checked}"
    )
    for note in made.notes:
        say(f"note: {note}")
