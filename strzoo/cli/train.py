"""`strzoo train`: a recipe, trained; or listed, shown, planned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_change, complete_recipe
from strzoo.cli.options import json_option, plot_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.errors import UsageError
from strzoo.settings import Settings
from strzoo.zoo.paper import describe_result

if TYPE_CHECKING:
    from strzoo.training.config import TrainConfig
    from strzoo.training.plan import TrainPlan
    from strzoo.training.results import TrainResult

INTERRUPTED = 130


@click.command()
@click.argument("recipe", required=False, shell_complete=complete_recipe)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_change)
@click.option("--list", "listing", is_flag=True, help="List the recipes.")
@click.option("--keys", is_flag=True, help="List all keys with types and defaults.")
@click.option("--show", is_flag=True, help="Print the resolved configuration as YAML.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@plot_option
@json_option
@settings_options
@verbosity_options
def train(
    recipe: str | None,
    changes: tuple[str, ...],
    listing: bool,
    keys: bool,
    show: bool,
    dry_run: bool,
    plot: Path | None,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Train RECIPE, a name of --list or a YAML file, with some keys changed.

    \b
    strzoo train resnet50_str_90.23 data=/data/imagenet precision=bf16
    torchrun --nproc-per-node 8 -m strzoo train resnet50_dense data=/data/imagenet
    strzoo train digits_str target_sparsity=0.95 output=runs/try resume=auto

    batch_size is the global one, over all processes; learning_rate is for a global batch of
    lr_batch_size and is not changed by another batch_size unless scale_lr=true, which scales it
    linearly. SIGTERM and Ctrl-C write a checkpoint first; resume=auto goes on from it. See
    docs/training.md. FastGRNN recipes have other keys: strzoo rnn train --keys.
    """
    if listing:
        _list(as_json)
        return
    if keys:
        _keys(as_json)
        return
    if recipe is None:
        raise UsageError("name a recipe; strzoo train --list shows them")
    from strzoo.rnn.recipes import has_recipe

    if plot is not None:
        from strzoo.pictures import check_plot

        check_plot(plot)
    if has_recipe(recipe):
        if plot is not None:
            raise UsageError("--plot draws sparsity and thresholds; FastGRNN learns ranks")
        _train_rnn(recipe, changes, show=show, dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    from strzoo.training.parsing import apply_overrides, find_changed
    from strzoo.training.recipes import check_code, load_recipe

    config = apply_overrides(load_recipe(recipe), changes)
    if not show:
        check_code(recipe, config, map(find_changed, changes))
    if show:
        _show(config, as_json)
        return
    from strzoo.distributed import read_launcher

    speaks = read_launcher().rank == 0
    if dry_run:
        from strzoo.training.plan import plan

        made = plan(config, settings=settings)
        if speaks:
            _print_plan(made, as_json)
        return
    from strzoo.cli.training import show_training
    from strzoo.training.train import train as run

    with show_training(config, quiet=quiet or not speaks) as watch:
        result = run(config, settings=settings, on_event=watch)
    if speaks:
        _print_result(result, as_json, quiet)
        if plot is not None and result.history:
            from strzoo.training.run_plot import plot_run

            plot_run(result.history, result.best or result.history[-1], plot)
            if not quiet:
                say(f"wrote {plot}", err=True)
    if result.interrupted == "SIGINT":
        raise click.exceptions.Exit(INTERRUPTED)


def _train_rnn(recipe: str, changes: tuple[str, ...], **options: bool) -> None:
    from strzoo.cli.rnn_training import run_recipe
    from strzoo.rnn.parsing import apply_overrides
    from strzoo.rnn.recipes import load_recipe

    run_recipe(apply_overrides(load_recipe(recipe), changes), **options)


def _list(as_json: bool) -> None:
    from strzoo.rnn import recipes as rnn
    from strzoo.training.recipes import RecipeGroup, list_recipe_groups, load_recipe

    groups = list_recipe_groups()
    abouts = {name: load_recipe(name).about for group in groups for name in group.recipes}
    recurrent = {name: config.about for name, config in rnn.list_recipes().items()}
    groups.append(RecipeGroup(rnn.TITLE, tuple(recurrent)))
    abouts |= recurrent
    if as_json:
        rows = [{"title": group.title, "recipes": list(group.recipes)} for group in groups]
        print_json({"schema": 1, "recipes": abouts, "groups": rows})
        return
    header = ("recipe", "about")
    for group in groups:
        lines = [(name, abouts[name]) for name in group.recipes]
        print_table(simple_table(header, lines, wrap=("about",), title=group.title))


def _keys(as_json: bool) -> None:
    from strzoo.training.config import TrainConfig
    from strzoo.training.parsing import KEYS, spell_type

    default = TrainConfig()
    rows = []
    for name, key in KEYS.items():
        value = getattr(default, name)
        rows.append((name, spell_type(name), _spell(value), key.metadata["about"]))
    if as_json:
        names = ("key", "type", "default", "about")
        print_json({"schema": 1, "keys": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    header = ("key", "type", "default", "what it is")
    print_table(simple_table(header, rows, left=2, wrap=header[1:]))


def _spell(value: object) -> str:
    if value is None or value == () or value == "":
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show(config: TrainConfig, as_json: bool) -> None:
    import dataclasses

    from strzoo.training.parsing import dump_config

    if as_json:
        print_json({"schema": 1, "config": dataclasses.asdict(config)})
    else:
        say(dump_config(config), nl=False)


def _print_plan(made: TrainPlan, as_json: bool) -> None:
    if as_json:
        print_json(made.to_dict())
        return
    _show(made.config, False)
    config = made.config
    sparse = sum(layer.method != "dense" for layer in made.layers)
    say(
        f"\nmodel: {config.architecture}, {made.parameters:,} parameters, {len(made.layers)} "
        f"convolutions and linears, {sparse} of them {config.method if sparse else 'sparse'}"
    )
    if made.expected is not None:
        say(f"the paper: {describe_result(config.recipe)}")
    if made.reproduced:
        say(f"as in the published code: {', '.join(made.reproduced)}")
    say(f"device: {made.device}, {made.precision}")
    say(f"data: {made.data}")
    steps = f"not known, in {config.epochs} epochs"
    if made.steps is not None and made.total_steps is not None:
        steps = f"{made.steps:,} per epoch, {made.total_steps:,} in {config.epochs} epochs"
    say(f"steps: {steps}; {made.part} images at once in each process")
    say(f"learning rate: {made.learning_rate_rule}")
    rows = [
        (g.name, str(g.tensors), f"{g.parameters:,}", f"{g.weight_decay:g}") for g in made.groups
    ]
    print_table(
        simple_table(("group", "tensors", "parameters", "weight decay"), rows, title="parameters")
    )
    if made.rates_source is not None:
        rates = [
            (x.name, f"{x.weights:,}", "" if x.prune_rate is None else f"{x.prune_rate:.2f}")
            for x in made.layers
        ]
        print_table(
            simple_table(
                ("layer", "weights", "pruned %"), rates, title=f"rates: {made.rates_source}"
            )
        )
    every = max(1, config.epochs // 20)
    times = [
        (f"{m.epoch:g}", f"{m.learning_rate:.6g}", _percent(m.sparsity))
        for m in made.moments
        if m.epoch % every == 0 or m.epoch == config.epochs
    ]
    print_table(
        simple_table(
            ("after epoch", "learning rate", "sparsity %"), times, left=0, title="schedule"
        )
    )


def _percent(value: float | None) -> str:
    return "learned" if value is None else f"{value:.2f}"


def _print_result(result: TrainResult, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(result.to_dict())
    else:
        rows = [
            (name, str(r.epoch), f"{r.top1:.2f}", f"{r.top5:.2f}", f"{r.sparsity:.2f}")
            for name, r in (("best", result.best), ("last", result.last))
            if r is not None
        ]
        header = ("network", "epoch", "top-1 %", "top-5 %", "sparsity %")
        if rows:
            print_table(simple_table(header, rows, title=str(result.folder)))
    if quiet:
        return
    if result.finished:
        say(f"done: {len(result.history)} epochs, files in {result.folder}", err=True)
    else:
        say(
            f"stopped by {result.interrupted}; go on with resume=auto output={result.folder}",
            err=True,
        )
