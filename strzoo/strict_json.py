"""Plain values (JSON, YAML) into frozen dataclasses, strictly.

Unknown, missing and ill-typed fields are errors, so that every data file, registry, budget and
training recipe fails the same way.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from strzoo.borders import read_text, reading
from strzoo.errors import IntegrityError

Record = TypeVar("Record")


class WrongTypeError(IntegrityError):
    """`value`, the value itself or an item of it, is not of the annotated type. Exit code 4."""

    def __init__(self, message: str, value: Any) -> None:
        super().__init__(message)
        self.value = value


def read_json(path: Path) -> Any:
    """The JSON document in `path`. A name given twice in one object is an error.

    Args:
        path: a file of text.

    Returns:
        Mappings, lists, texts, numbers, booleans and None.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not JSON, or an object repeats a name.
    """
    text = read_text(path, "valid JSON")

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                raise IntegrityError(f"{path}: {name!r} appears twice in one object")
            seen[name] = value
        return seen

    with reading(path, "valid JSON"):
        return json.loads(text, object_pairs_hook=no_repeats)


def build_record(record: type[Record], value: Any, where: str) -> Record:
    """A `record` (a dataclass) from a JSON object, nested dataclasses and mappings included.

    Args:
        record: the dataclass.
        value: the JSON object.
        where: what the object is, for messages.

    Raises:
        IntegrityError: a field is unknown, missing or of the wrong type; `where` and the field
            are named.
    """
    if not isinstance(value, dict):
        raise IntegrityError(f"{where}: expected an object, got {_spell(value)}")
    fields = {f.name: f for f in dataclasses.fields(record)}  # type: ignore[arg-type]
    for name in value:
        if name not in fields:
            raise IntegrityError(
                f"{where}: unknown field {name!r}; the fields are {', '.join(fields)}"
            )
    hints = _hints(record)  # type: ignore[arg-type]
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = convert(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise IntegrityError(f"{where}: missing field {name!r}")
    try:
        return record(**arguments)
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error}") from error


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    """The types of a record's fields. A registry has many records of few classes."""
    return typing.get_type_hints(record)


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `hint`.

    Args:
        hint: str, int, float, bool, a dataclass, a tuple or a mapping of such, or one of these or
            None; Any takes whatever it is. A whole number serves as a float; nothing else is
            converted.
        value: a plain value.
        where: what the value is, for messages.

    Returns:
        The value; a list as a tuple, a mapping as a read-only one.

    Raises:
        WrongTypeError: it is of another type.
        IntegrityError: a field of a dataclass is unknown or missing.
    """
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build_record(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        item = arguments[0]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise IntegrityError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        return tuple(convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, typing.Mapping) and isinstance(value, dict):
        items = {name: convert(arguments[1], v, f"{where}.{name}") for name, v in value.items()}
        return types.MappingProxyType(items)
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if hint in (str, int, float, bool) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise WrongTypeError(f"{where}: expected {name}, got {_spell(value)}", value)


def _spell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
