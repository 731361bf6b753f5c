"""What a key of a training configuration is: its default, its values, its meaning on resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    resuming: str = NOTED,
) -> Any:
    """A key: all there is to know about it.

    Args:
        default: its value if nothing sets it.
        about: the line that `strzoo train --keys` prints; choices are added to it.
        choices: the values it takes, if they are few.
        within: the numbers it takes; None is taken too if the type says so.
        open_to: the key that decides if this one is None; added to `about`.
        percent: whether people may take the fraction for percent, so that an error explains.
        resuming: FIXED, GROWS, NOTED or FREE.
    """
    if choices:
        about = f"{about}: {', '.join(choices)}"
    if open_to:
        about = f"{about}; none: if {open_to}=original"
    metadata = {
        "open_to": open_to,
        "about": about,
        "choices": choices,
        "within": within,
        "percent": percent,
    }
    return field(default=default, metadata={**metadata, "resuming": resuming})
