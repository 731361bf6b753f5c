"""Interleaved measurement: what is compared takes turns, so that changes of the machine hit all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

# Seconds for which an engine's threads may spin on after a run, on the cores of whatever runs next:
# onnxruntime's do for 60 ms.
SPINNING = 0.1
Clock = Callable[[], float]
T = TypeVar("T")


def timed(function: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of a call."""
    started = clock()
    function()
    return clock() - started


def take_turns(
    ways: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    warm: int = 1,
    pause: float = 0.0,
    alternate: bool = True,
) -> dict[str, list[T]]:
    """What each way returns, in each of `rounds` rounds, after `warm` that are not kept.

    Args:
        pause: seconds after each turn, for threads of an engine that spin on for a while.
        alternate: every second round in reverse.
    """
    names = list(ways)
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(-warm, rounds):
        for name in names[::-1] if alternate and number % 2 else names:
            value = ways[name]()
            if number >= 0:
                found[name].append(value)
            if pause:
                time.sleep(pause)
    return found


def time_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = 1,
    pause: float = 0.0,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """As `take_turns`, the seconds of each call."""
    calls = {name: lambda way=way: timed(way, clock) for name, way in ways.items()}
    return take_turns(calls, rounds, warm=warm, pause=pause)


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each way."""
    return {name: statistics.median(values) for name, values in found.items()}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(numerator, denominator, strict=True)
    return statistics.median(above / below for above, below in pairs)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and range."""
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
