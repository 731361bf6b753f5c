"""Parse JSON into frozen dataclasses, strictly: unknown, missing and ill-typed fields are errors.

Used by the registry and the budgets, so that every data file fails loudly and the same way.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from strzoo.errors import IntegrityError, StrzooError

Record = TypeVar("Record")


def read_json(path: Path) -> Any:
    """The JSON document in `path`. A name given twice in one object is an error.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not JSON, or an object repeats a name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StrzooError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StrzooError(f"cannot read {path}: {error}") from error

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                raise IntegrityError(f"{path}: {name!r} appears twice in one object")
            seen[name] = value
        return seen

    try:
        return json.loads(text, object_pairs_hook=no_repeats)
    except (json.JSONDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not valid JSON: {error}") from error


def build_record(record: type[Record], value: Any, where: str) -> Record:
    """A `record` (a dataclass) from a JSON object, nested dataclasses and mappings included.

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
    hints = typing.get_type_hints(record)
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise IntegrityError(f"{where}: missing field {name!r}")
    try:
        return record(**arguments)
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or an IntegrityError."""
    if dataclasses.is_dataclass(hint):
        return build_record(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        item = arguments[0]
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise IntegrityError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, typing.Mapping) and isinstance(value, dict):
        items = {name: _convert(arguments[1], v, f"{where}.{name}") for name, v in value.items()}
        return types.MappingProxyType(items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, float) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise IntegrityError(f"{where}: expected {name}, got {_spell(value)}")


def _spell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
