"""Shell completion of ids, recipes, keys, budgets and tables; files are completed by the shell.

Nothing here imports torch: a shell waits for it at each press of the tab key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from strzoo.errors import StrzooError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _items(names: Iterable[str], incomplete: str, *, files: bool = True) -> list[CompletionItem]:
    """The names that go on from what is typed, else whatever file the shell finds."""
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or ([CompletionItem(incomplete, type="file")] if files else [])


def complete_model(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ids of the registry, then files."""
    from strzoo.settings import Settings
    from strzoo.zoo.registry import load_registry

    try:
        return _items(load_registry(Settings.from_env()).ids, incomplete)
    except StrzooError:  # a registry of the user's that cannot be read: the command will say so
        return _items((), incomplete)


def complete_budget(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the shipped budgets, then files."""
    from strzoo.zoo.budgets import list_budgets

    return _items(list_budgets(), incomplete)


def complete_table(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Numbers of the paper's tables."""
    from strzoo.zoo.paper import read_paper

    return _items((table.number for table in read_paper().tables), incomplete, files=False)


def complete_recipe(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the recipes, then files."""
    from strzoo.training.recipes import list_recipe_groups

    names = [name for group in list_recipe_groups() for name in group.recipes]
    if context.command_path.endswith("rnn train"):
        names = []
    return _items([*names, *_rnn_recipes()], incomplete)


def complete_change(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """KEY= of a configuration; after the equals sign yes and no, or a file."""
    from strzoo.rnn.parsing import KEYS as RNN_KEYS
    from strzoo.training.parsing import KEYS, spell_type

    recurrent = context.params.get("recipe") in _rnn_recipes()
    if context.command_path.endswith("rnn train"):
        recurrent = True
    name, equals, _ = incomplete.partition("=")
    if not equals:
        keys = RNN_KEYS if recurrent else KEYS
        return _items((f"{key}=" for key in keys), incomplete, files=False)
    if not recurrent and name in KEYS and "true" in spell_type(name):
        return _items((f"{name}=true", f"{name}=false"), incomplete, files=False)
    return _items((), incomplete)


def _rnn_recipes() -> list[str]:
    from strzoo.rnn.recipes import list_recipes

    return list(list_recipes())
