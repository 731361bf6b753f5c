"""Mutated checkpoints; `python -m tests.fuzz.checkpoints 1000` runs the same on a larger scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.checkpoints import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's of damaged numbers
def test_a_mutated_checkpoint_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    counts, problems = fuzz(132, seed=1, folder=tmp_path)
    assert not problems
    assert sum(counts.values()) == 132
    assert counts["read"] > 5  # else the seeds were never whole
    assert counts["refused"] > 40
