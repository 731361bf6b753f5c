"""Engines in turn: what fails, what differs, and the order of the runs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from strzoo.benchmarking.timing import check_agreement, time_in_turn, warm_up
from strzoo.errors import StrzooError, VerificationError


def test_outputs_that_differ_or_are_not_finite_do_not_agree() -> None:
    expected = np.array([1.0, -4.0], np.float32)
    check_agreement(expected + 0.03, expected, "a")  # 0.75 % of the largest
    for other, apart in ((expected + 0.1, "0.025"), (expected * np.nan, "nan")):
        with pytest.raises(VerificationError, match=rf"^b differs by {apart} of the largest"):
            check_agreement(other, expected, "b differs")
    infinite = np.full(2, np.inf, np.float32)
    with pytest.raises(VerificationError, match="by nan"):
        check_agreement(infinite, infinite, "c differs")


def test_a_failing_engine_is_named_in_one_line() -> None:
    def fail() -> np.ndarray:
        raise RuntimeError("no\nmemory")

    with pytest.raises(StrzooError, match=r"^onnxruntime cannot run it: no memory$"):
        warm_up(fail, "onnxruntime cannot run it")


def test_every_round_runs_each_engine_once_in_order() -> None:
    ran: list[str] = []

    def engine(name: str) -> np.ndarray:
        ran.append(name)
        return np.zeros(1)

    told: list[int] = []
    times = time_in_turn({name: partial(engine, name) for name in "abc"}, 2, told.append)
    assert ran == list("abcabc")
    assert told == [1, 2]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2, "c": 2}
