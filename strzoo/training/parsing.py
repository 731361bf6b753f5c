"""Text and YAML into a TrainConfig: strictly typed, unknown keys answered with the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from strzoo.errors import UsageError, one_line
from strzoo.strict_json import WrongTypeError, convert
from strzoo.strict_yaml import parse_yaml, read_yaml
from strzoo.training.config import TrainConfig
from strzoo.training.config_network import REPRODUCE
from strzoo.training.keys import ARGUMENTS, Arguments, freeze_arguments

KEYS = {one.name: one for one in dataclasses.fields(TrainConfig)}
_HINTS = typing.get_type_hints(TrainConfig)
# What other programs call these.
_ALIASES = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "arch": "architecture",
    "bs": "batch_size",
    "sparsity": "target_sparsity",
    "amp": "precision",
    "ema": "ema_decay",
    "warmup": "warmup_epochs",
    "classes": "num_classes",
    "out": "output",
}
_SYNONYMS = {"model": "architecture"}
_ALTERNATIVES = (("prune_rate", "budget"),)
# Keys that other methods refuse.
_OF_METHODS = {
    "target_sparsity": ("str",),
    "prune_rate": ("dnw", "gmp"),
    "budget": ("dnw", "gmp"),
    "keep_dense": ("str", "dnw", "gmp"),
    "block": ("str", "dnw", "gmp"),
}
_WORDS = {"true": True, "yes": True, "on": True, "1": True,
          "false": False, "no": False, "off": False, "0": False}  # fmt: skip
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def read_mapping(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not YAML, no mapping, or gives a key twice.
    """
    return read_yaml(path, "a recipe in YAML")


def read_config(path: Path) -> TrainConfig:
    """The configuration in a YAML file: one flat mapping of keys to values.

    Raises:
        StrzooError, IntegrityError: as `read_mapping`.
        UsageError: a key is unknown or a value of the wrong type or out of range.
    """
    try:
        return build_config(read_mapping(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def build_config(values: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
    """A configuration from typed values; what is not given comes from `base` or the defaults.

    Raises:
        UsageError: a key is unknown (the nearest is named), a value of the wrong type or out of
            range.
    """
    known = {find_key(key): value for key, value in values.items()}
    if known.get(REPRODUCE) is False:  # YAML's reading of the word
        known[REPRODUCE] = "false"
    converted = {name: _typed(name, value) for name, value in known.items()}
    base = base or TrainConfig()
    return dataclasses.replace(base, **{**_forget_method(converted, base), **converted})


def apply_overrides(config: TrainConfig, pairs: Iterable[str]) -> TrainConfig:
    """`config` with `key=value` texts applied, the last of a repeated key winning.

    A tuple is written `30,60`; `none` clears a value that may be absent. Of two keys that exclude
    each other, the one given clears the other; another method clears those of the one before.

    Raises:
        UsageError: as `build_config`, or a text has no `=`.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} is not key=value")
        argument = key.strip().partition(".")[2]
        name = find_changed(pair)
        if name in ARGUMENTS:
            before = given.get(name, getattr(config, name))
            given[name] = _add_argument(name, argument, text.strip(), before)
        else:
            given[name] = _typed(name, _read_text(_HINTS[name], text.strip()))
    for one, other in (*_ALTERNATIVES, *(pair[::-1] for pair in _ALTERNATIVES)):
        if given.get(one) is not None:
            given.setdefault(other, None)
    return dataclasses.replace(config, **{**_forget_method(given, config), **given})


def _forget_method(given: Mapping[str, Any], base: TrainConfig) -> dict[str, Any]:
    """The keys of `base` that belong to its method, back at their defaults, where another one is
    given: a recipe's target sparsity says nothing about GMP."""
    method = given.get("method", base.method)
    if method == base.method:
        return {}
    plain = TrainConfig()
    return {name: getattr(plain, name) for name, of in _OF_METHODS.items() if method not in of}


def _add_argument(name: str, argument: str, text: str, before: Arguments) -> Arguments:
    """`before` with NAME.ARGUMENT=TEXT, the text read as YAML reads it; NAME=none clears all."""
    if not argument:
        if text.lower() in ("none", "null", "", "{}"):
            return ()
        raise UsageError(f"{name} is given as {name}.ARGUMENT=VALUE")
    try:
        value = parse_yaml(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if isinstance(value, str) and _NUMBER.fullmatch(value):  # 1e-3, which YAML takes for a text
        value = float(value)
    return freeze_arguments({**dict(before), argument: value}, name)


def find_key(key: Any) -> str:
    """`key` if it is one; else a UsageError that names the nearest."""
    key = _SYNONYMS.get(key, key)
    if key in KEYS:
        return str(key)
    nearest = (
        [_ALIASES[key]] if key in _ALIASES else difflib.get_close_matches(str(key)[:80], KEYS, n=2)
    )
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "strzoo train --keys lists them"
    raise UsageError(f"unknown key {one_line(repr(key), 80)}; {hint}")


def find_changed(pair: str) -> str:
    """The key that `key=value`, or `key.argument=value`, changes; errors as `find_key`."""
    key = pair.partition("=")[0].strip()
    name, dot, _ = key.partition(".")
    return find_key(name if dot and name in ARGUMENTS else key)


def dump_config(config: TrainConfig) -> str:
    """YAML that `read_config` reads back, in the order of the fields."""
    values = {name: _plain(name, getattr(config, name)) for name in KEYS}
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=False, width=100)
    return text


def _plain(name: str, value: Any) -> Any:
    """A value as YAML holds it."""
    if name in ARGUMENTS:
        return {key: _plain("", given) for key, given in value}
    return list(value) if isinstance(value, tuple) else value


def compare_configs(first: TrainConfig, second: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configurations differ, with both values."""
    return {
        name: (getattr(first, name), getattr(second, name))
        for name in KEYS
        if getattr(first, name) != getattr(second, name)
    }


def spell_type(name: str) -> str:
    """The type of a key in words."""
    if name in ARGUMENTS:
        return "arguments by name"
    hint, optional = _unwrap(_HINTS[name])
    if typing.get_origin(hint) is tuple:
        text = f"list of {_item(hint).__name__}, as 1,2"
    else:
        text = {bool: "true or false", int: "whole number", float: "number", str: "text"}[hint]
    return f"{text}, or none" if optional else text


def _typed(name: str, value: Any) -> Any:
    """A plain value as the type of the key."""
    if name in ARGUMENTS:
        return freeze_arguments(value or (), name)
    try:
        return convert(_HINTS[name], _read_number(_HINTS[name], value), name)
    except WrongTypeError as error:
        raise UsageError(
            f"{name}={one_line(repr(error.value), 80)} is of the wrong type; "
            f"expected: {spell_type(name)}"
        ) from None


def _read_number(hint: Any, value: Any) -> Any:
    """`value`, or the number that it spells where `hint` is one: YAML reads 1e-4, without a dot,
    as text."""
    hint, _ = _unwrap(hint)
    if isinstance(value, list) and typing.get_origin(hint) is tuple:
        return [_read_number(_item(hint), item) for item in value]
    if isinstance(value, str) and hint is float and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _read_text(hint: Any, text: str) -> Any:
    """The plain value that `text` on the command line means where `hint` is wanted; the text
    itself where it means none, None for an empty one."""
    hint, optional = _unwrap(hint)
    if optional and text.lower() in ("none", "null", ""):
        return None
    if typing.get_origin(hint) is tuple:
        parts = [part.strip() for part in text.strip("[]()").split(",")]
        return [_read_text(_item(hint), part) for part in parts if part]
    if hint is bool:
        return _WORDS.get(text.lower(), text)
    if hint is int and re.fullmatch(r"[-+]?\d{1,20}", text):
        return int(text)
    return _read_number(hint, text) if text else None


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None is allowed."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None)), True
    return hint, False


def _item(hint: Any) -> type:
    item: type = typing.get_args(hint)[0]
    return item
