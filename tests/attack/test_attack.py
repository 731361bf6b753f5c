"""A part of the hostile inputs of every family; `make attack` runs all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_hostile_inputs_end_in_one_line_and_leave_nothing() -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("llvmlite")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.attack", "--quick"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " cases, 0 failed" in run.stdout
