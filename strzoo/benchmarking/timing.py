"""Engines in turn: warmed up, compared with each other, timed so that a slow spell hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from strzoo.errors import StrzooError, VerificationError

Key = TypeVar("Key")
Run = Callable[[], np.ndarray]

AGREES = 1e-2  # relative difference between engines that a timing may hide
_WARM_UP = 3


def warm_up(run: Run, what: str) -> np.ndarray:
    """The output after some untimed runs.

    Args:
        run: an engine on its images.
        what: the engine and its model, for messages.

    Raises:
        StrzooError: it fails.
    """
    try:
        return [run() for _ in range(_WARM_UP)][-1]
    except Exception as error:  # each engine has its own kinds
        reason = " ".join(str(error).split())[:160]
        raise StrzooError(f"{what}: {reason}") from error


def check_agreement(
    output: np.ndarray, expected: np.ndarray, what: str, allowed: float = AGREES
) -> None:
    """Raise a VerificationError that begins with `what` unless both are nearly the same.

    Args:
        allowed: the largest difference, relative to the largest expected output.
    """
    with np.errstate(invalid="ignore"):  # what is not finite does not agree
        difference = float(np.abs(output - expected).max() / max(np.abs(expected).max(), 1e-30))
    if not difference <= allowed:
        raise VerificationError(
            f"{what} by {difference:.3g} of the largest output; its timing means nothing"
        )


def time_in_turn(
    runners: Mapping[Key, Run], runs: int, on_run: Callable[[int], object]
) -> dict[Key, list[float]]:
    """Milliseconds of each of `runs` rounds, in which every runner runs once.

    Args:
        runners: warmed up.
        runs: rounds.
        on_run: told the rounds done.
    """
    times: dict[Key, list[float]] = {key: [] for key in runners}
    for done in range(runs):
        for key, run in runners.items():
            start = time.perf_counter()
            run()
            times[key].append(1000 * (time.perf_counter() - start))
        on_run(done + 1)
    return times
