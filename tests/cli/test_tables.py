"""Tables on terminals of every width: no digit is lost, and what is left out is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strzoo.analysis.masks import MaskOverlap
from strzoo.benchmarking.results import BenchmarkResult, Timing
from strzoo.cli import benchmark, compare, output
from strzoo.cli.tables import Table, cell_width, fit, records
from strzoo.evaluation.compare_results import Agreement, ModelComparison, ModelTotals
from tests.conftest import CliResult

Cli = Callable[..., CliResult]
WIDTHS = (60, 80, 200)
# Column -> its text, from a row of the JSON document: written here from the document alone.
Spelled = dict[str, Callable[[dict[str, Any]], str]]


def _count(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "" if row[name] is None else f"{row[name]:,}"


LIST: Spelled = {
    "id": lambda row: row["id"],
    "params": lambda row: row["published"]["params"],
    "sparsity %": lambda row: f"{row['published']['sparsity']:.2f}",
    "top-1 %": lambda row: f"{row['published']['top1']:.2f}",
    "FLOPs": lambda row: row["published"]["flops"],
}
REPORT: Spelled = {
    "layer": lambda row: row["name"],
    "shape": lambda row: "x".join(map(str, row["shape"])),
    "params": _count("params"),
    "nonzeros": _count("nonzeros"),
    "sparsity": lambda row: f"{row['sparsity']:.2f} %",
    "threshold": lambda row: "" if row["threshold"] is None else f"{row['threshold']:.6f}",
    "dense MACs": _count("dense_macs"),
    "sparse MACs": _count("sparse_macs"),
}
FILES: Spelled = {
    "model": lambda row: row["model"],
    "sha256": lambda row: row["sha256"],
    "bytes": lambda row: f"{row['bytes']:,}",
}
TIMING: Spelled = {
    "model": lambda row: row["model"],
    "batch": lambda row: str(row["batch"]),
    "zeros %": lambda row: f"{row['sparsity']:.2f}",
    "p50 ms": lambda row: f"{row['p50']:.2f}",
    "p90 ms": lambda row: f"{row['p90']:.2f}",
    "p99 ms": lambda row: f"{row['p99']:.2f}",
    "fastest ms": lambda row: f"{row['fastest']:.2f}",
    "images/s": lambda row: f"{row['images_per_second']:.1f}",
    "dense ms": lambda row: f"{row['dense_onnxruntime']:.2f}",
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "gain": lambda row: f"{row['gain']:.2f}",
    "peak MB": lambda row: f"{row['peak_memory'] / 1e6:.0f}",
    "file MB": lambda row: f"{row['file_bytes'] / 1e6:.1f}",
}
COMPARED: Spelled = {
    "model": lambda row: row["name"],
    "weights": _count("weights"),
    "nonzeros": _count("nonzeros"),
    "sparsity %": lambda row: f"{row['sparsity']:.2f}",
    "dense MACs": _count("dense_macs"),
    "sparse MACs": _count("sparse_macs"),
    "published top-1 %": lambda row: f"{row['published_top1']:.2f}",
}


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of that width."""
    chosen: int = request.param
    monkeypatch.setattr(output, "screen_width", lambda: chosen)
    return chosen


def shows(printed: str, said: str, rows: list[dict[str, Any]], spelled: Spelled) -> None:
    """Every cell of every row stands there in order, or its column is named as left out."""
    named = next((line for line in said.splitlines() if line.startswith("left out")), "")
    left_out = named.partition(": ")[2].removesuffix(" (--json has all)").split(", ")
    assert rows
    at = 0
    for row in rows:
        for column, spell in spelled.items():
            if column not in left_out:
                found = printed.find(spell(row), at)
                assert found >= 0, (column, spell(row), printed[at : at + 400])
                at = found + len(spell(row))
    assert set(left_out) - {""} <= {*spelled, "files", "cached", "type", "from"}


def test_list_and_report_show_every_number_or_name_the_column(
    cli: Cli, str_file: Path, width: int
) -> None:
    rows = cli("list", "--json").json["models"]
    made = cli("list")
    shows(made.out, made.err, rows, LIST)
    for model in ("resnet50_str_90.23", str_file):
        document = cli("report", model, "--json").json
        made = cli("report", model)
        shows(made.out, made.err, document["layers"], REPORT)
        # The totals stand below the table.
        totals = document["totals"]
        for name, value in totals.items():
            if name == "block_sparsity" and not value:
                continue  # said only of networks that have zero blocks
            assert (f"{value:.2f} %" if "sparsity" in name else f"{value:,}") in made.out
        assert "only in --json: output shapes and zero blocks" in made.err
    assert max(map(len, cli("list").out.splitlines())) <= width


def test_verify_shows_every_number(cli: Cli, width: int) -> None:
    rows = [line for m in cli("verify", "--json").json["models"] for line in m["lines"]]
    made = cli("verify")
    words = made.out.split()
    for row in rows:
        assert row["published"] in words
        assert row["computed"] is None or row["computed"] in words
        if row["difference"] is not None and "difference" not in made.err:
            assert f"{row['difference']:+.2f}".replace("-0.00", "+0.00") in words
        assert all(word in made.out for word in row["note"].split())


def test_import_and_cache_list_show_every_number(
    cli: Cli, str_file: Path, tmp_path: Path, width: int
) -> None:
    folder = ("--cache-dir", tmp_path)
    made = cli("import", str_file, *folder)
    rows = cli("cache", "list", "--json", *folder).json["files"]
    shows(made.out, made.err, rows, FILES)
    made = cli("cache", "list", *folder)
    shows(made.out, made.err, rows, FILES)


def test_compare_shows_every_number_or_names_it(cli: Cli, width: int) -> None:
    words = ("compare", "resnet50_str_90.23", "resnet50_dense", "resnet50_str_98.98")
    document = cli(*words, "--json").json
    made = cli(*words)
    shows(made.out, made.err, document["models"], COMPARED)
    places = {
        f"{number}": (lambda row, i=number: f"{row['sparsity'][i]:.2f}") for number in range(3)
    }
    spelled = {"layer": lambda row: row["name"], **places,
               "spread": lambda row: f"{row['spread']:.2f}"}  # fmt: skip
    shows(made.out.partition("sparsity %\n")[2], "", document["layers"], spelled)
    assert "only in --json: params, FLOPs, published figures" in made.err
    assert "only in --json: shapes and MACs of the layers" in made.err


def test_compare_shows_every_pair(capsys: pytest.CaptureFixture[str], width: int) -> None:
    total = ModelTotals("a", "plan", 1_000, 900, 10.0)
    mask = MaskOverlap("resnet50_str_90.23", "b", 54, 1_237_701, 2_492_040, 49.666, 7.512)
    answers = Agreement("resnet50_str_90.23", "b", 30, 93.333, 61.333)
    made = ModelComparison(("a",), (total,), (None,), (), (mask,), (answers,), ("a note",))
    compare._print(made)
    printed = capsys.readouterr().out
    for text in ("1,237,701", "2,492,040", "49.67", "7.51", "54", "93.33", "61.33", "30", "a note"):
        assert text in printed


def test_benchmark_shows_every_number_or_names_the_column(
    capsys: pytest.CaptureFixture[str], width: int
) -> None:
    timing = Timing(
        model="resnet50_str_90.23", engine="onnxruntime", batch=16, runs=31, sparsity=90.23,
        p50=123.456, p90=134.567, p99=145.678, fastest=112.345, images_per_second=129.6,
        dense_onnxruntime=234.567, ratio=1.9, gain=1.87, verdict="faster",
        peak_memory=1_234_567_890, file_bytes=102_502_400, latencies=(123.456,) * 31,
    )  # fmt: skip
    rows = (timing, dataclasses.replace(timing, engine="sparse", p50=61.5))
    benchmark._print(BenchmarkResult(rows, 2, "a machine", {"torch": "2.9"}, ("a verdict",)))
    captured = capsys.readouterr()
    shows(captured.out, captured.err, [dataclasses.asdict(row) for row in rows], TIMING)
    assert "2 threads" in captured.out
    assert "31 runs" in captured.out
    assert "only in --json: the latency of each run" in captured.err


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=8)
_WORDS = st.lists(_TEXT, max_size=4).map(" ".join)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.tuples(_TEXT, _WORDS, _TEXT, _TEXT), min_size=1, max_size=3), st.integers(1, 60))
def test_no_cell_is_cut_at_any_width(rows: list[tuple[str, ...]], width: int) -> None:
    table = Table(("a", "b", "c", "d"), rows, 2, wrap=("b",), optional=("d",))
    made, dropped = fit(table, width)
    if made is None:
        shown = records(table, width)
        kept = range(4)
    else:
        shown = str(made)
        kept = range(3 if dropped else 4)
        assert all(cell_width(line) <= width for line in shown.splitlines())
    for row in rows:
        for index in kept:
            assert all(word in shown for word in row[index].split())


def test_brackets_are_text_with_and_without_rich(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(("key", "about"), [("tensorboard", "extra strzoo[train] :smile: [/]")], 2, "a[b]")
    for present in (True, False):
        monkeypatch.setattr(output, "has_rich", lambda found=present: found)
        output.print_table(table)
        shown = capsys.readouterr().out
        assert "extra strzoo[train] :smile: [/]" in shown
        assert "a[b]" in shown
