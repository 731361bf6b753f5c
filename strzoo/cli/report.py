"""`strzoo report`: a model layer by layer."""

from __future__ import annotations

import re
from pathlib import Path

import click

from strzoo.cli.options import force_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table
from strzoo.errors import UsageError
from strzoo.settings import Settings


def parse_size(text: str) -> tuple[int, int, int]:
    """`224`, `224x192` (height x width) or `3x224x192` as (channels, height, width).

    Raises:
        UsageError: it is none of these.
    """
    numbers = [int(n) for n in text.split("x")] if re.fullmatch(r"\d+(x\d+){0,2}", text) else []
    if not numbers or 0 in numbers:
        raise UsageError(f"input size {text!r} is not SIZE, HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH")
    if len(numbers) == 1:
        numbers *= 2
    channels, height, width = numbers if len(numbers) == 3 else (3, *numbers)
    return channels, height, width


@click.command()
@click.argument("model")
@click.option("--input-size", default="224", show_default=True, help="SIZE, HxW or CxHxW.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead of stdout."
)
@force_option
@settings_options
@verbosity_options
def report(
    model: str,
    input_size: str,
    style: str,
    as_json: bool,
    output: Path | None,
    force: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Params, sparsity, thresholds and MACs of each layer of MODEL, and the totals.

    MODEL is an id or a checkpoint file. An id is reported from its weights if they are in the
    cache, else from its published budget; the last lines say which.
    """
    import json

    from strzoo.analysis import rendering
    from strzoo.analysis.reporting import report as make_report
    from strzoo.files import check_destination, write_text

    if output is not None:
        check_destination(output, force=force)
    made = make_report(model, input_size=parse_size(input_size), settings=settings)
    style = "json" if as_json else style
    if style == "json" and output is None:
        print_json(made.to_dict())
        return
    if style == "table" and output is None:
        print_table(rendering.to_table(made))
        click.echo("\n".join(rendering.summary(made)))
        return
    texts = {
        "json": lambda: json.dumps(made.to_dict(), indent=2) + "\n",
        "csv": lambda: rendering.to_csv(made),
        "markdown": lambda: rendering.to_markdown(made),
        "table": lambda: rendering.to_markdown(made),
    }
    if output is None:
        click.echo(texts[style](), nl=False)
        return
    write_text(output, texts[style](), force=force)
    if not quiet:
        click.echo(f"wrote {output}", err=True)
