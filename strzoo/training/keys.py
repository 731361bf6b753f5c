"""What a key of a training configuration is: its default, its values, its meaning on resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from strzoo.arguments import show
from strzoo.errors import UsageError

# Arguments of a function by name, sorted: a mapping that is frozen.
Arguments: TypeAlias = tuple[tuple[str, Any], ...]
# The keys that hold such: NAME.ARGUMENT=VALUE on the command line, a mapping in YAML.
ARGUMENTS = ("model_args", "optimizer_args", "loss_args", "policy_args")

# How a resumed run takes another value of a key.
FIXED = "fixed"  # refused: the state means nothing, or something else, with another value
GROWS = "grows"  # taken if it is larger
NOTED = "noted"  # taken from there on, and noted
FREE = "free"  # taken: it changes nothing in what is computed


@dataclass(frozen=True)
class Range:
    """The numbers a key takes, and how an error says so."""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Range("must be positive", lambda value: value > 0)
NOT_NEGATIVE = Range("must not be negative", lambda value: value >= 0)
BLOCK = Range("must be from 1 to 64", lambda value: 1 <= value <= 64)
FRACTION = Range("must be at least 0 and below 1", lambda value: 0 <= value < 1)
DENSITY = Range("must be above 0 and at most 1", lambda value: 0 < value <= 1)
CLOSED_FRACTION = Range("must be at least 0 and at most 1", lambda value: 0 <= value <= 1)


def key(
    default: Any,
    about: str,
    *,
    choices: tuple[str, ...] = (),
    within: Range | None = None,
    percent: bool = False,
    open_to: str = "",
    dotted: bool = False,
    resuming: str = NOTED,
) -> Any:
    """A key: all there is to know about it.

    Args:
        default: its value if nothing sets it.
        about: the line that `strzoo train --keys` prints; choices are added to it.
        choices: the values it takes, if they are few.
        within: the numbers it takes; None is taken too if the type says so.
        open_to: the key that decides if this one is None; added to `about`.
        dotted: whether a dotted path to a class or function is taken beside the choices.
        percent: whether people may take the fraction for percent, so that an error explains.
        resuming: FIXED, GROWS, NOTED or FREE.
    """
    if choices and not dotted:
        about = f"{about}: {', '.join(choices)}"
    if open_to:
        about = f"{about}; none: if {open_to}=original"
    metadata = {
        "open_to": open_to,
        "about": about,
        "choices": choices,
        "within": within,
        "percent": percent,
        "dotted": dotted,
    }
    return field(default=default, metadata={**metadata, "resuming": resuming})


def freeze_arguments(value: Any, name: str) -> Arguments:
    """Arguments by name, given as a mapping or as pairs, in their frozen form.

    Raises:
        UsageError: a name is no word, or a value is no plain one.
    """
    pairs = value.items() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | tuple | list):
        raise UsageError(f"{name}={show(value)} is no mapping of names to values")
    frozen: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"{name}={show(value)} is no mapping of names to values")
        key, given = pair
        given = tuple(given) if isinstance(given, list) else given
        items = given if isinstance(given, tuple) else (given,)
        if not (isinstance(key, str) and key.isidentifier()):
            raise UsageError(f"{name}.{key} is not the name of an argument")
        if not all(isinstance(item, str | int | float | None) for item in items):
            raise UsageError(f"{name}.{key}={show(given)} is no plain value, nor a list of such")
        frozen[key] = given
    return tuple(sorted(frozen.items()))


def is_dotted(value: Any) -> bool:
    """Whether a value is the dotted path of something in a module: package.module.Name."""
    parts = value.split(".") if isinstance(value, str) else []
    return len(parts) > 1 and all(part.isidentifier() for part in parts)
