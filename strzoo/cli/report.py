"""`strzoo report`: a model layer by layer."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import (
    Command,
    force_option,
    html_option,
    plot_option,
    settings_options,
    verbosity_options,
)
from strzoo.cli.output import Table, print_json, print_table, say
from strzoo.errors import UsageError
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.analysis.results import Report

# What a narrow terminal may lack, the first first.
_OPTIONAL = ("type", "shape", "threshold", "params", "nonzeros", "dense MACs")
ENDINGS = {".md": "markdown", ".csv": "csv", ".json": "json", ".txt": "table"}
ONLY_IN_JSON = "output shapes and zero blocks of the layers"


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


def output_options(command: Command) -> Command:
    """Add --format, --json and -o; the command gets `style` and `output`."""

    @click.option(
        "--format",
        "style",
        type=click.Choice(["table", "json", "csv", "markdown"]),
        help="[default: table; with -o that of the file's ending]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
    @click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help="Write a .md, .csv, .json or .txt file, not to stdout.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, style: str | None, as_json: bool, output: Path | None, **kwargs: Any
    ) -> Any:
        style = choose_style("json" if as_json else style, output)
        return command(*args, style=style, output=output, **kwargs)

    return wrapped  # type: ignore[return-value]


def choose_style(style: str | None, output: Path | None) -> str:
    """The format that was asked for, else the one that the file's name ends in.

    Raises:
        UsageError: the two differ, or the ending is not known and no format was asked for.
    """
    if output is None:
        return style or "table"
    meant = ENDINGS.get(output.suffix.lower())
    if style is None and meant is None:
        page = "; --html FILE writes a page" if output.suffix.lower() in (".html", ".htm") else ""
        raise UsageError(
            f"{output} must end in one of {', '.join(ENDINGS)}, or give --format{page}"
        )
    if style and meant and style != meant:
        raise UsageError(f"{output} is the name of a {meant} file, not of {style}")
    return style or meant or "table"


def report_table(made: Report) -> Table:
    """The layers and the totals."""
    from strzoo.analysis.rendering import HEADER, TEXT_COLUMNS, rows

    return Table(HEADER, rows(made), TEXT_COLUMNS, made.model, totals=True, optional=_OPTIONAL)


def show_report(
    made: Report,
    document: dict[str, Any],
    style: str,
    output: Path | None,
    *,
    force: bool,
    quiet: bool,
) -> None:
    """Print a report in that style, or write it to `output`; `document` is its JSON."""
    import json

    from strzoo.analysis import rendering
    from strzoo.files import write_text

    if style == "json" and output is None:
        print_json(document)
        return
    if style == "table" and output is None:
        print_table(report_table(made), more=ONLY_IN_JSON)
        say("\n".join(rendering.summary(made)))
        return
    texts = {
        "json": lambda: json.dumps(document, indent=2) + "\n",
        "csv": lambda: rendering.to_csv(made),
        "markdown": lambda: rendering.to_markdown(made),
        "table": lambda: "\n".join([str(report_table(made)), *rendering.summary(made), ""]),
    }
    if output is None:
        say(texts[style](), nl=False)
        return
    write_text(output, texts[style](), force=force)
    if not quiet:
        say(f"wrote {output}", err=True)


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--input-size", help="SIZE, HxW or CxHxW [default: the network's own].")
@plot_option
@html_option
@output_options
@force_option
@settings_options
@verbosity_options
def report(
    model: str,
    input_size: str | None,
    plot: Path | None,
    page: Path | None,
    style: str,
    output: Path | None,
    force: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Params, sparsity, thresholds and MACs of each layer of MODEL, and the totals.

    MODEL is an id, a checkpoint file (a FastGRNN network's too) or an ONNX file. An id is reported
    from its weights if they are in the cache, else from its published budget; the last lines say
    which.
    """
    from strzoo.files import check_destination

    if plot is not None:
        from strzoo.pictures import check_plot

        check_plot(plot, force=force)
    for written in (output, page):
        if written is not None:
            check_destination(written, force=force)
    size = None if input_size is None else parse_size(input_size)
    from strzoo.analysis.report import report as make_report
    from strzoo.hub.resolve import resolve

    source = resolve(model, settings=settings)
    made = make_report(source, input_size=size)
    if plot is not None:
        from strzoo.analysis.report_plot import plot_report

        plot_report(made, plot, force=force)
    if page is not None:
        from strzoo.analysis.report_page import write_report_page

        card = source.card if size is None else None  # published for the network's own size
        write_report_page(made, page, card=card, force=force)
    for written in (plot, page):
        if written is not None and not quiet:
            say(f"wrote {written}", err=True)
    show_report(made, made.to_dict(), style, output, force=force, quiet=quiet)
