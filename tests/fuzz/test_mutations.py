"""Mutated files of every format; `python -m tests.fuzz.mutations 5000` is the larger run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.mutations import Readers, fuzz, make_all

pytest.importorskip("llvmlite")
pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does"),
    pytest.mark.filterwarnings("ignore"),  # torch's of damaged numbers
]


def test_a_mutated_file_of_any_format_gives_a_result_or_one_line(tmp_path: Path) -> None:
    counts, problems = fuzz(300, seed=1, folder=tmp_path)
    assert not problems
    assert counts["formats"] >= 20
    assert counts["read"] + counts["refused"] == 300
    assert counts["read"] > 10


def test_the_seeds_are_whole(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    readers = Readers(tmp_path)
    for name in make_all(tmp_path / "seeds"):
        readers.find(name)(tmp_path / "seeds" / name)
