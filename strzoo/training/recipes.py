"""The recipes that ship with strzoo, by name, and recipes in files.

A shipped file holds a group: a `title`, the keys that its `recipes` have in `common`, and under
each recipe's name the keys of its own. `aliases` are further names for some of them. A file of a
user is one flat recipe; with `extends` it begins as another one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from strzoo.arguments import checked
from strzoo.errors import IntegrityError, UsageError, one_line
from strzoo.models.external_names import is_external, runs_code
from strzoo.settings import user_path
from strzoo.training.config import TrainConfig
from strzoo.training.parsing import build_config, read_mapping
from strzoo.zoo.names import resolve_name
from strzoo.zoo.paper import describe_result

_FOLDER = Path(__file__).resolve().parent / "recipes"
_ORDER = ("resnet50", "mobilenetv1", "cifar10", "digits", "finetune")
EXTENDS = "extends"
_CODE = {"architecture", "loss", "optimizer", "policy"}  # keys that may name code of any package
_DEPTH = 8  # files that extend each other


@dataclass(frozen=True)
class RecipeGroup:
    """Recipes that belong together: a title and their names, in the order of the file."""

    title: str
    recipes: tuple[str, ...]


def list_recipe_groups() -> list[RecipeGroup]:
    """The shipped recipes in their groups; those of the paper come first."""
    return list(_shipped()[0])


def list_recipes() -> list[str]:
    """Names that `load_recipe` accepts."""
    return sorted(_shipped()[1])


@checked
def load_recipe(name_or_path: str | os.PathLike[str]) -> TrainConfig:
    """A shipped recipe by name (or unique prefix), or one from a `.yaml` file, such as the
    `config.yaml` of a run. A file whose `extends` names another recipe, shipped or a file beside
    it, changes some keys of that one.

    Args:
        name_or_path: a name of `list_recipes`, or the file.

    Returns:
        The configuration, with the recipe's name in it.

    Raises:
        UnknownNameError: no recipe has that name and it is not a path.
        StrzooError and its subclasses: the file cannot be read or is not a configuration.
    """
    text = os.fspath(name_or_path)
    return _load_file(user_path(text)) if _is_path(text) else _load_shipped(text)


def check_code(recipe: str | os.PathLike[str], config: TrainConfig, given: Iterable[str]) -> None:
    """Refuse code that only a recipe's file names: files of strangers run none.

    Args:
        recipe: as for `load_recipe`.
        config: that of the recipe, with the caller's changes.
        given: keys that the caller has given.

    Raises:
        IntegrityError: a network, loss, optimizer or policy of a package is in the file alone.
    """
    if not _is_path(os.fspath(recipe)):
        return
    for key in sorted(_CODE - set(given)):
        value = getattr(config, key)
        if value is None or not (runs_code(value) if is_external(value) else "." in value):
            continue
        text = one_line(str(value), 80)
        raise IntegrityError(
            f"{recipe} names the code {text} as its {key}, which runs only if you name it as well: "
            f"{key}={text} (in Python, pass the TrainConfig of strzoo.load_recipe)"
        )


def _load_shipped(text: str) -> TrainConfig:
    _, recipes, aliases = _shipped()
    name = aliases.get(text) or resolve_name(text, recipes, kind="recipe")
    return recipes[name]


def _load_file(path: Path, depth: int = 0) -> TrainConfig:
    values = read_mapping(path)
    base = None
    try:
        if EXTENDS in values:
            base = _load_base(path, values.pop(EXTENDS), depth)
        config = build_config(values, base)
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None
    own = "recipe" in values and config.recipe
    return config if own else dataclasses.replace(config, recipe=path.stem)


def _load_base(path: Path, name: Any, depth: int) -> TrainConfig:
    """The recipe that the one in `path` extends."""
    if not isinstance(name, str):
        raise UsageError(f"{EXTENDS}={name!r} is not the name or file of a recipe")
    if not _is_path(name):
        return _load_shipped(name)
    if depth == _DEPTH:
        raise UsageError(f"{EXTENDS}={name} goes round in a circle, or is too deep")
    return _load_file(path.parent / user_path(name), depth + 1)


def _is_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or os.sep in text


@lru_cache(maxsize=1)
def _shipped() -> tuple[tuple[RecipeGroup, ...], dict[str, TrainConfig], dict[str, str]]:
    """The shipped groups, recipes by name, and further names."""
    groups = []
    recipes: dict[str, TrainConfig] = {}
    aliases: dict[str, str] = {}
    for stem in _ORDER:
        file = _FOLDER / f"{stem}.yaml"
        values = read_mapping(file)
        if odd := sorted(set(values) - {"title", "common", "recipes", "aliases"}):
            raise IntegrityError(f"{file}: unknown entry {odd[0]!r}")
        common, entries = values["common"], values["recipes"]
        own = {name: _build(name, common, keys) for name, keys in entries.items()}
        groups.append(RecipeGroup(values["title"], tuple(own)))
        recipes.update(own)
        aliases.update(values.get("aliases", {}))
    return tuple(groups), recipes, aliases


def _build(name: str, common: Mapping[str, Any], keys: Mapping[str, Any]) -> TrainConfig:
    """`about` begins with what the paper reports for the experiment."""
    about = "; ".join(filter(None, (describe_result(name), keys.get("about"))))
    return build_config({**common, **keys, "about": about, "recipe": name})
