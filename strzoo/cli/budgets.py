"""`strzoo budgets`: list, show, compare and extract per-layer sparsity."""

from __future__ import annotations

from pathlib import Path

import click

from strzoo.cli.completion import complete_budget, complete_model
from strzoo.cli.options import (
    force_option,
    json_option,
    plot_option,
    settings_options,
    verbosity_options,
)
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.report import ONLY_IN_JSON, parse_size, report_table
from strzoo.errors import UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.spelling import spell_change
from strzoo.zoo.budgets import compare_budgets, list_budgets, load_budget, to_document, write_budget


@click.group()
def budgets() -> None:
    """Sparsity budgets: how sparse each layer is.

    BUDGET is the name of a shipped budget (a unique prefix will do) or a .json file.
    """


@budgets.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the shipped budgets."""
    found = [load_budget(name) for name in list_budgets()]
    if as_json:
        rows = [{k: v for k, v in to_document(b).items() if k != "layers"} for b in found]
        print_json({"schema": 1, "budgets": rows})
        return
    table = [
        (b.name, b.architecture, b.method, f"{b.sparsity:.2f}", str(len(b.layers)))
        for b in sorted(found, key=lambda b: (b.architecture, b.method, b.sparsity))
    ]
    header = ("budget", "architecture", "method", "sparsity %", "layers")
    print_table(simple_table(header, table, left=3, optional=("architecture", "method")))


@budgets.command()
@click.argument("budget", shell_complete=complete_budget)
@click.option("--input-size", help="SIZE, HxW or CxHxW [default: the budget's network's own].")
@json_option
def show(budget: str, input_size: str | None, as_json: bool) -> None:
    """Show BUDGET layer by layer, with the MACs it leaves.

    Number of classes and input size are those that the file states, else the architecture's
    usual ones; the last lines say which.
    """
    from strzoo.analysis import rendering
    from strzoo.analysis.report import report_budget

    size = None if input_size is None else parse_size(input_size)
    if as_json and size is not None:
        raise UsageError("--input-size is for the MACs, which --json does not show; give one")
    loaded = load_budget(budget)
    if as_json:
        print_json(to_document(loaded))
        return
    try:
        made = report_budget(loaded, input_size=size)
    except UnknownNameError as error:  # of somebody's own network
        table = [(layer, f"{percent:.2f}") for layer, percent in loaded.layers.items()]
        print_table(simple_table(("layer", "sparsity %"), table, left=1))
        say(f"sparsity: {loaded.sparsity:.2f} %\nnote: no MACs: {error}")
        return
    print_table(report_table(made), more=ONLY_IN_JSON)
    say("\n".join(rendering.summary(made)))


@budgets.command()
@click.argument("first", shell_complete=complete_budget)
@click.argument("second", shell_complete=complete_budget)
@plot_option
@force_option
@json_option
def compare(first: str, second: str, plot: Path | None, force: bool, as_json: bool) -> None:
    """Compare two budgets layer by layer (second minus first, in percentage points)."""
    if plot is not None:
        from strzoo.pictures import check_plot

        check_plot(plot, force=force)
    a, b = load_budget(first), load_budget(second)
    lines = compare_budgets(a, b)
    if plot is not None:
        from strzoo.analysis.report_plot import plot_budgets

        plot_budgets([a, b], plot, force=force)
        say(f"wrote {plot}", err=True)
    if as_json:
        rows = [
            {"layer": d.layer, "first": d.first, "second": d.second, "difference": d.difference}
            for d in lines
        ]
        print_json({"schema": 1, "first": a.name, "second": b.name, "layers": rows})
        return
    table = [
        (d.layer, f"{d.first:.2f}", f"{d.second:.2f}", spell_change(d.difference)) for d in lines
    ]
    total = (
        "all layers",
        f"{a.sparsity:.2f}",
        f"{b.sparsity:.2f}",
        spell_change(b.sparsity - a.sparsity),
    )
    print_table(simple_table(("layer", a.name, b.name, "difference"), [*table, total]))


@budgets.command(short_help="Extract the budget of a model.")
@click.argument("model", shell_complete=complete_model)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write a budget file (.json)."
)
@click.option("--name", help="Name of the budget [default: the model's].")
@click.option("--input-size", help="SIZE, HxW or CxHxW [default: the network's own].")
@force_option
@settings_options
@verbosity_options
def extract(
    model: str,
    output: Path | None,
    name: str | None,
    input_size: str | None,
    force: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Extract the budget of MODEL (an id or a checkpoint file); prints JSON without --output."""
    from strzoo.analysis.extract import extract_budget
    from strzoo.files import check_destination

    if output is not None:
        check_destination(output, force=force)
    made = extract_budget(
        model,
        name=name,
        input_size=parse_size(input_size) if input_size else None,
        settings=settings,
    )
    if output is None:
        print_json(to_document(made))
        return
    write_budget(made, output, force=force)
    if not quiet:
        say(f"wrote {output}: sparsity {made.sparsity:.2f} %", err=True)
