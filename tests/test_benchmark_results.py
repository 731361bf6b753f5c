"""benchmarks/RESULTS.md is what benchmarks/results/ gives, and the one schema loses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_results_md_is_what_the_files_give() -> None:
    command = [sys.executable, str(BENCHMARKS / "write_results.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_recorded_run_is_written_read_and_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from harness.record import Record, make_parser
    from harness.results import Column, read_results

    file = tmp_path / "new" / "run.json"
    parser = make_parser("A benchmark.")
    record = Record(parser, parser.parse_args(["--json", str(file)]), "run", "A run")
    table = record.table([Column("what"), Column("time", "ms", ".1f"), Column("bar", "", "g")])
    table.add("a|b", 1.25, 3)
    table.add("no figure", float("nan"), None)
    table.judge("time", 1.25, least=2)
    assert record.finish() == 1
    results = read_results(file)
    assert results.tables[0].rows == [["a|b", 1.25, 3], ["no figure", "-", None]]
    assert results.machine
    assert results.date
    printed = capsys.readouterr().out
    for line in ("| what | time ms | bar |", "| a\\|b | 1.2 | 3 |", "| no figure | - |  |"):
        assert line in results.lines()
        assert line in printed
    assert results.notes == ["Missed: time is 1.25, less than 2."]
    file.write_text(file.read_text().replace('["no figure", "-", null]', '["too short"]'))
    with pytest.raises(ValueError, match="not a file of results"):
        read_results(file)


def test_only_a_whole_run_replaces_recorded_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from harness.record import RESULTS, TRIED, Record, make_parser

    parser = make_parser(None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="digits")
    for arguments, path in (
        ([], RESULTS / "run_digits.json"),
        (["--data", "fashion"], RESULTS / "run_fashion.json"),
        (["--rounds", "1"], TRIED / "run_digits.json"),
    ):
        record = Record(parser, parser.parse_args(arguments), "run", "", kinds=["data"])
        assert record.path == path


def test_what_is_compared_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from harness.turns import medians, ratio, take_turns

    order: list[str] = []
    values = {"a": iter([9.0, 1.0, 4.0, 6.0]), "b": iter([9.0, 2.0, 2.0, 2.0])}

    def way(name: str) -> float:
        order.append(name)
        return next(values[name])

    found = take_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 3)
    assert found == {"a": [1, 4, 6], "b": [2, 2, 2]}  # without the first round, which warms
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert medians(found) == {"a": 4, "b": 2}
    assert ratio(found["a"], found["b"]) == 2  # the median of 0.5, 2 and 3
