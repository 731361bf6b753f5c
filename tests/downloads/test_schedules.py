"""A few random schedules; `python -m tests.downloads.schedules 1000 --kills 100` runs many."""

from __future__ import annotations

import pytest

from tests.downloads.schedules import run_kills, run_schedules

SCHEDULES = 240
BLOCKS = 8


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_final_name_holds_the_exact_right_bytes_or_does_not_exist(tmp_path, block):
    size = SCHEDULES // BLOCKS
    counts = run_schedules(range(block * size, (block + 1) * size), tmp_path)
    # The schedules must be able to find something: they neither all fail nor all pass.
    assert min(counts["arrived"], counts["failed"], counts["resumable"]) >= 3


@pytest.mark.slow
def test_kills_among_eight_processes_leave_the_right_file(tmp_path):
    counts = run_kills(4, tmp_path)
    assert counts["kills"] == 4
    assert counts["downloads"] >= 8
