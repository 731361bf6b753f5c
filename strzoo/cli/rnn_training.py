"""`strzoo rnn train`: a recipe, trained; or listed, shown, planned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from strzoo.cli.completion import complete_change, complete_recipe
from strzoo.cli.options import json_option, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.errors import UsageError

if TYPE_CHECKING:
    from strzoo.rnn.config import RNNConfig
    from strzoo.rnn.report import RNNReport
    from strzoo.rnn.results import RNNEpoch, RNNTrainResult


@click.command()
@click.argument("recipe", required=False, shell_complete=complete_recipe)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_change)
@click.option("--list", "listing", is_flag=True, help="List the recipes.")
@click.option("--keys", is_flag=True, help="List all keys with types and defaults.")
@click.option("--show", is_flag=True, help="Print the resolved configuration as YAML.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@json_option
@verbosity_options
def train(
    recipe: str | None,
    changes: tuple[str, ...],
    listing: bool,
    keys: bool,
    show: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train RECIPE, a name of --list or a YAML file, with some keys changed.

    \b
    strzoo rnn train digits_fastgrnn target_rank_w=4 target_rank_u=6
    strzoo rnn train har2_9_8 data=/data/har output=runs/har2

    The best network of each pair of ranks is kept, folded, as rank_W_U.pth.
    """
    from strzoo.rnn.parsing import apply_overrides
    from strzoo.rnn.recipes import list_recipes, load_recipe

    if listing:
        found = {name: config.about for name, config in list_recipes().items()}
        if as_json:
            print_json({"schema": 1, "recipes": found})
        else:
            print_table(simple_table(("recipe", "about"), list(found.items()), wrap=("about",)))
        return
    if keys:
        _print_keys(as_json)
        return
    if recipe is None:
        raise UsageError("name a recipe; strzoo rnn train --list shows them")
    config = apply_overrides(load_recipe(recipe), changes)
    run_recipe(config, show=show, dry_run=dry_run, as_json=as_json, quiet=quiet)


def run_recipe(config: RNNConfig, *, show: bool, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Train `config`, or print it (`show`), or what training it would do (`dry_run`)."""
    from strzoo.rnn.parsing import dump_config

    if show or dry_run:
        document: dict[str, Any] = {"schema": 1, "config": dataclasses.asdict(config)}
        report = None
        if dry_run:
            from strzoo.rnn.training import plan_rnn

            report = plan_rnn(config)
            document["network"] = None if report is None else report.to_dict()
        if as_json:
            print_json(document)
            return
        say(dump_config(config), nl=False)
        if report is not None:
            say(f"\nbefore training, in {config.epochs} epochs of {config.dataset}:")
            print_rnn_report(report)
        elif dry_run:
            say(f"\nthe network follows from the data: give data= for {config.dataset}")
        return
    from strzoo.rnn.training import train_rnn

    def tell(epoch: RNNEpoch) -> None:
        say(
            f"epoch {epoch.epoch}/{config.epochs} loss {epoch.loss:.4f} top-1 {epoch.top1:.2f} % "
            f"ranks {epoch.ranks.replace('_', ', ')} rate {epoch.learning_rate:.3g} "
            f"{epoch.seconds:.1f} s",
            err=True,
        )

    result = train_rnn(config, on_epoch=None if quiet else tell)
    _print_training(result, as_json, quiet)


def print_rnn_report(made: RNNReport) -> None:
    """The matrices as a table, and the totals in a line."""
    rows = [
        (
            one.name, "x".join(map(str, one.shape)), str(one.rank), f"{one.params:,}",
            f"{one.nonzeros:,}", f"{one.sparsity:.2f}", f"{one.macs:,}", f"{one.sparse_macs:,}",
        )
        for one in made.matrices
    ]  # fmt: skip
    header = ("matrix", "shape", "rank", "params", "nonzeros", "sparsity %", "MACs", "sparse MACs")
    optional = ("shape", "params", "nonzeros", "MACs")
    print_table(simple_table(header, rows, title=made.model, optional=optional))
    say(
        f"{made.params:,} parameters, {made.nonzeros:,} left ({4 * made.nonzeros / 1024:.2f} KB "
        f"in fp32); MACs {made.macs_per_step:,} per step, {made.macs:,} for {made.steps} steps "
        f"(sparse {made.sparse_macs_per_step:,} and {made.sparse_macs:,})"
    )


def _print_keys(as_json: bool) -> None:
    from strzoo.rnn.config import RNNConfig
    from strzoo.rnn.parsing import KEYS, spell_type

    default = RNNConfig()
    rows = []
    for name, key in KEYS.items():
        value = getattr(default, name)
        spelled = "none" if value in (None, "", ()) else str(value)
        rows.append((name, spell_type(name), spelled, key.metadata["about"]))
    if as_json:
        names = ("key", "type", "default", "about")
        print_json({"schema": 1, "keys": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    header = ("key", "type", "default", "what it is")
    print_table(simple_table(header, rows, left=2, wrap=header[1:]))


def _print_training(result: RNNTrainResult, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(result.to_dict())
    else:
        rows = [
            (
                *one.epoch.ranks.split("_"), f"{one.epoch.top1:.2f}", str(one.epoch.epoch),
                "" if one.file is None else one.file.name,
            )
            for one in result.by_rank
        ]  # fmt: skip
        header = ("rank of W", "rank of U", "top-1 %", "epoch", "file")
        print_table(simple_table(header, rows, left=0, title=str(result.folder)))
    if not quiet:
        say(
            f"done: {len(result.history)} epochs, best {result.best.epoch.top1:.2f} %, last "
            f"{result.last.top1:.2f} %, files in {result.folder}",
            err=True,
        )
