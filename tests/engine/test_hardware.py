"""What the environment and the processor say about threads and registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import strzoo
from strzoo.engine.hardware import Hardware, environment_threads
from strzoo.engine.runtime.load import load
from strzoo.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", 4),
        ("4,2", 4),  # a number for each nesting level, as the OpenMP specification allows
        (" 3 , 1", 3),
        ("99999", 1024),  # the most that a call can use
        ("", None),
        ("0", None),
        ("-2", None),
        ("many", None),
        ("\u00b2", None),  # superscript two
        ("\u0663", None),  # an Arabic-Indic digit
        ("9" * 5000, None),
    ],
)
def test_omp_num_threads_is_read_as_openmp_defines_it_and_never_fails(
    text: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert environment_threads() == expected


def test_without_omp_num_threads_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment_threads() is None


@pytest.mark.parametrize("threads", [0, -1, 1025, 100000])
@pytest.mark.parametrize(
    "call",
    [
        lambda threads: strzoo.compile("none.onnx", threads),
        lambda threads: load("none.strz", threads),
        lambda threads: strzoo.benchmark("none.onnx", engines=["onnxruntime"], threads=threads),
        lambda threads: strzoo.tradeoff("none.pth", "none", validation="none", threads=threads),
    ],
    ids=["compile", "load", "benchmark", "tradeoff"],
)
def test_threads_have_a_limit_that_is_named(call: Callable[[int], Any], threads: int) -> None:
    with pytest.raises(UsageError, match=r"threads is .*; it must be .* from 1 to 1024"):
        call(threads)


def test_a_dense_kernel_holds_sums_an_input_and_a_weight_in_registers() -> None:
    # 32 registers, tiles of 3: 8 rows need 24 sums, 3 inputs and a weight; tiles of 14 fit no two.
    assert Hardware(16, 32).dense_rows(3) == 8
    assert Hardware(16, 32).dense_rows(14) == 1
    assert Hardware(8, 16).dense_rows(3) == 4
