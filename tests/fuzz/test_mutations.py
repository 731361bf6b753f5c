"""Mutated files of every format; `python -m tests.fuzz.mutations 5000` is the larger run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutations import Readers, make_all

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("llvmlite")
pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does"),
    pytest.mark.filterwarnings("ignore"),  # torch's of damaged numbers
]


@pytest.mark.slow
def test_a_mutated_file_of_any_format_gives_a_result_or_one_line() -> None:
    # A process of its own: the memory counted is that of these files alone, and a hang ends.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fuzz.mutations", "300", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first = next(line for line in done.stdout.splitlines() if line.startswith("formats: "))
    counts = {
        what: int(number) for what, number in (part.split(": ") for part in first.split(", "))
    }
    assert counts["formats"] >= 20
    assert counts["read"] + counts["refused"] == 300
    assert counts["read"] > 10


@pytest.mark.slow
def test_the_seeds_are_whole(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    readers = Readers(tmp_path)
    for name in make_all(tmp_path / "seeds"):
        readers.find(name)(tmp_path / "seeds" / name)
