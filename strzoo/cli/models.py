"""`strzoo list` and `strzoo info`: what the zoo has. Neither imports torch."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import json_option, settings_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.errors import UnknownNameError
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, get_card, load_registry

HEADER = ("id", "files", "cached", "params", "sparsity %", "top-1 %", "FLOPs")


@click.command("list")
@click.argument("pattern", default="*", shell_complete=complete_model)
@json_option
@settings_options
def list_command(pattern: str, as_json: bool, settings: Settings) -> None:
    """List the models whose id matches PATTERN (a glob such as 'resnet50*'; all by default).

    Params, sparsity, top-1 and FLOPs (multiply-accumulates) are as published.
    """
    registry = load_registry(settings)
    cards = [card for card in registry if fnmatch.fnmatch(card.id, pattern)]
    if not cards:
        raise UnknownNameError(
            f"no model matches {pattern!r}; the ids are {', '.join(registry.ids)}"
        )
    if as_json:
        models = [describe(card, settings) for card in cards]
        print_json({"schema": 1, "models": models})
        return
    rows = [
        (
            card.id,
            ", ".join(card.files),
            ", ".join(cached_formats(card, settings)) or "-",
            card.published.params,
            f"{card.published.sparsity:.2f}",
            f"{card.published.top1:.2f}",
            card.published.flops,
        )
        for card in cards
    ]
    print_table(
        simple_table(HEADER, rows, left=3, optional=("files", "cached")),
        more="what `strzoo info ID` shows of each",
    )


@click.command()
@click.argument("model", shell_complete=complete_model)
@json_option
@settings_options
def info(model: str, as_json: bool, settings: Settings) -> None:
    """Show the card of MODEL (an id): published figures, files, preprocessing, licence."""
    card = get_card(model, settings=settings)
    if as_json:
        print_json({"schema": 1, **describe(card, settings)})
        return
    published, steps = card.published, card.preprocessing
    rows = [
        ("id", card.id),
        ("architecture", card.architecture),
        ("method", card.method),
        ("dataset", f"{card.dataset}, {card.num_classes} classes"),
        ("params (published)", published.params),
        ("sparsity (published)", f"{published.sparsity:.2f} %"),
        ("top-1 (published)", f"{published.top1:.2f} %"),
        ("FLOPs (published)", f"{published.flops} multiply-accumulates"),
        ("budget", card.budget or _no_budget(card)),
        (
            "preprocessing",
            f"{steps.interpolation} resize {steps.resize}, centre crop {steps.crop}, "
            f"mean {steps.mean}, std {steps.std}",
        ),
        ("licence", card.license),
        ("source", card.source),
        ("citation", card.citation),
    ]
    rows += [(f"erratum: {name}", f"{e.expected}: {e.reason}") for name, e in card.errata.items()]
    for format, file in card.files.items():
        where = settings.cache_dir / card.filename(format)
        state = f"cached at {where}" if where.exists() else "not cached"
        rows.append((f"file: {format}", f"{file.address} ({state})"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        say(f"{name:<{width}}  {text}")


def cached_formats(card: ModelCard, settings: Settings) -> list[str]:
    """The formats whose file is in the cache (not verified: that takes reading them)."""
    return [f for f in card.files if (settings.cache_dir / card.filename(f)).exists()]


def describe(card: ModelCard, settings: Settings) -> dict[str, Any]:
    """The card as plain values."""
    result = {f.name: getattr(card, f.name) for f in dataclasses.fields(card)}
    result["published"] = dataclasses.asdict(card.published)
    result["preprocessing"] = dataclasses.asdict(card.preprocessing)
    result["errata"] = {name: dataclasses.asdict(e) for name, e in card.errata.items()}
    result["files"] = {
        format: {**dataclasses.asdict(file), "address": file.address}
        for format, file in card.files.items()
    }
    result["cached"] = cached_formats(card, settings)
    return result


def _no_budget(card: ModelCard) -> str:
    if card.method == "dense":
        return "none: it is dense"
    return f"not in the paper; `strzoo budgets extract {card.id}` takes it from the published file"
