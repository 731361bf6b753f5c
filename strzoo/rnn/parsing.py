"""KEY=VALUE texts and YAML files into an RNNConfig; unknown keys are answered with the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from strzoo.errors import UsageError, one_line
from strzoo.rnn.config import RNNConfig
from strzoo.strict_yaml import read_yaml

KEYS = {one.name: one for one in dataclasses.fields(RNNConfig)}
_HINTS = typing.get_type_hints(RNNConfig)
_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_SPELLED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def apply_overrides(config: RNNConfig, pairs: Iterable[str]) -> RNNConfig:
    """`config` with `key=value` texts applied, the last of a repeated key winning.

    Lists are written 30,60; `none` clears a value that may be absent.

    Raises:
        UsageError: a text has no `=`, a key is unknown, a value of the wrong type or out of range.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} is not key=value")
        name = _find_key(key.strip())
        given[name] = _parse(name, text.strip())
    return dataclasses.replace(config, **given)


def read_config(path: Path) -> RNNConfig:
    """The configuration in a YAML file: one flat mapping, values as on the command line.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not such a mapping.
        UsageError: as `apply_overrides`.
    """
    values = read_yaml(path, "a recipe in YAML")
    try:
        return apply_overrides(RNNConfig(), [f"{k}={_to_text(v)}" for k, v in values.items()])
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _to_text(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def dump_config(config: RNNConfig) -> str:
    """YAML that `read_config` reads back."""
    values = {k: list(v) if isinstance(v, tuple) else v
              for k, v in dataclasses.asdict(config).items()}  # fmt: skip
    text: str = yaml.safe_dump(values, sort_keys=False, width=100)
    return text


def _find_key(key: str) -> str:
    if key in KEYS:
        return key
    nearest = difflib.get_close_matches(key[:80], KEYS, n=2)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "strzoo rnn train --keys"
    raise UsageError(f"unknown key {one_line(repr(key), 80)}; {hint}")


def spell_type(name: str) -> str:
    """The type of a key in words."""
    if name in ("rank_w", "rank_u"):
        return "learned, a whole number, or none"
    hint, optional = _unwrap(name)
    text = "numbers, as 30,60" if typing.get_origin(hint) is tuple else _SPELLED[hint]
    return f"{text}, or none" if optional else text


def _unwrap(name: str) -> tuple[Any, bool]:
    hint = _HINTS[name]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [one for one in typing.get_args(hint) if one is not type(None)]
        return kinds[0], True
    return hint, False


def _parse(name: str, text: str) -> Any:
    hint, optional = _unwrap(name)
    if optional and text.lower() in ("none", "null", ""):
        return None
    try:
        if name in ("rank_w", "rank_u"):
            return text if text == "learned" else int(text)
        if typing.get_origin(hint) is tuple:
            return tuple(float(part) for part in text.strip("[]()").split(",") if part.strip())
        if hint is bool:
            return _WORDS[text.lower()]
        return hint(text)
    except (ValueError, KeyError):
        raise UsageError(
            f"{name}={one_line(repr(text), 80)} is of the wrong type; expected: {spell_type(name)}"
        ) from None
