"""The recipes that ship with strzoo, by name, and recipes in files."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from strzoo.training.config import TrainConfig
from strzoo.training.parsing import read_config
from strzoo.zoo.names import resolve_name

_FOLDER = Path(__file__).resolve().parent / "recipes"


def list_recipes() -> list[str]:
    """Names that `load_recipe` accepts."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | os.PathLike[str]) -> TrainConfig:
    """A shipped recipe by name (or unique prefix), or one from a `.yaml` file, such as the
    `config.yaml` of a run.

    Args:
        name_or_path: a name of `list_recipes`, or the file.

    Returns:
        The configuration, with the recipe's name in it.

    Raises:
        UnknownNameError: no recipe has that name and it is not a path.
        StrzooError and its subclasses: the file cannot be read or is not a configuration.
    """
    text = os.fspath(name_or_path)
    if text.endswith((".yaml", ".yml")) or os.sep in text:
        path = Path(text).expanduser()
        config = read_config(path)
        return config if config.recipe else dataclasses.replace(config, recipe=path.stem)
    name = resolve_name(text, list_recipes(), kind="recipe")
    return dataclasses.replace(read_config(_FOLDER / f"{name}.yaml"), recipe=name)
