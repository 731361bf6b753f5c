"""Mutated plan files are refused or stay within their memory; docs/plan-files.md names the checks.

`python -m tests.fuzz.plans 100000` runs the same on a larger scale.
"""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.plans import fuzz

pytest.importorskip("llvmlite")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")


@pytest.mark.slow
def test_no_accepted_plan_leaves_its_memory() -> None:
    counts, problems = fuzz(200, seed=1, groups={1: 2})
    assert not problems
    assert sum(counts.values()) == 200
    assert counts["accepted"] > 20  # else nothing was tried
    assert counts["refused"] > 60


@pytest.mark.slow
def test_the_guard_pages_find_what_the_checks_prevent() -> None:
    # Which mutation does harm depends on the plans, and so on the processor.
    _, problems = fuzz(20, seed=1, groups={1: 2}, unchecked=True)
    assert any("SIGSEGV" in problem or "SIGBUS" in problem for problem in problems)
