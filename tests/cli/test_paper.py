from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import strzoo
from strzoo.cli import output
from tests.analysis.test_paper import write_run
from tests.conftest import CliResult

Cli = Callable[..., CliResult]


def test_the_tables_are_listed_and_shown_with_what_repeats_each_row(cli: Cli) -> None:
    listed = cli("paper", "--json").json
    assert [table["table"] for table in listed["tables"]] == strzoo.list_paper_tables()
    assert "Budgets in DNW" in cli("paper").out
    shown = cli("paper", "4").out
    for text in ("resnet50_dnw_str_94.80", "69.72", "strzoo train resnet50_dnw_erk_90 data=FOLDER",
                 "differs: DNW + ERK, 90.00 %: FLOPs 960M, computed 991M"):  # fmt: skip
        assert text in shown
    rows = list(csv.DictReader(io.StringIO(cli("paper", "10", "--csv").out)))
    assert (rows[0]["s_init"], rows[0]["weight decay"]) == ("-3200", "1.7e-05")
    assert cli("paper", "9", "--json").json["rows"][0]["recipe"] == "resnet50_gs_89.54"
    assert cli("paper", "3", "--json").json["rows"][0]["learned"] == 94.45


def test_own_runs_are_a_column_and_the_picture_is_drawn(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "runs" / "a", "mobilenetv1_str_89.01", results="3,9,61.25,89.1,True\n")
    plot = tmp_path / "table.svg"
    shown = cli("paper", "2", "--runs", tmp_path / "runs", "--plot", plot)
    assert "61.25 at 89.10 %, epoch 3 so far" in shown.out
    assert plot.read_text().startswith("<?xml")
    assert cli("paper", "2", "--plot", plot).code == 1  # it exists
    assert "no accuracy" in cli("paper", "10", "--plot", tmp_path / "b.svg").error


@pytest.mark.slow
def test_each_figure_is_drawn_from_budgets_tables_or_a_run(cli: Cli, tmp_path: Path) -> None:
    figures = pytest.importorskip("strzoo.analysis.paper_figures")
    pytest.importorskip("matplotlib")
    run = tmp_path / "runs" / "a"
    write_run(run, "resnet50_str_90.23", results="2,9,61.25,75,True\n")
    layers = {
        "first": {"weights": 100, "sparsity": [10.0, 60.0], "threshold": [0.01, 0.02]},
        "second": {"weights": 300, "sparsity": [30.0, 80.0], "threshold": [0.03, 0.04]},
        "dense": {"weights": 0, "sparsity": [0.0, 0.0], "threshold": [None, None]},
    }
    document = {"schema": 1, "epochs": [1, 2], "layers": layers}
    (run / "layers.json").write_text(json.dumps(document))
    drawn = {n: one.draw(tmp_path / "runs") for n, one in figures.FIGURES.items()}
    lines = {
        n: {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
        for n, figure in drawn.items()
    }
    # The tenth layer, or the last of fewer; 100 x 10 % and 300 x 30 % of 400, then 60 % and 80 %.
    assert list(lines[1].values()) == [[0.03, 0.04]]
    assert list(lines[2].values()) == [[25.0, 75.0]]
    assert [text.get_text() for text in drawn[3].axes[0].get_xticklabels()] == ["first", "second"]
    assert max(lines[4]["STR"]) == 76.19  # at 79.55 %: table 1
    assert 61.25 in lines[4]["own runs"]
    # The FLOPs of table 1, in millions: 90.23 % has 343, uniform 90 % has 409.
    assert lines[6]["resnet50_str_90.23, 90.23 %"][0] == 59.8
    assert {"resnet50_str_90.23, 343 M", "resnet50_uniform_90, 409 M"} <= set(lines[7])
    assert len(lines[8]) == len(lines[9]) == 2
    plot = tmp_path / "figure.svg"
    assert cli("paper", "--figure", "2", "--runs", run, "--plot", plot).code == 0
    assert plot.read_text().startswith("<?xml")
    (run / "layers.json").write_text('{"epochs": [1], "layers": {"a": {}}}')
    assert cli("paper", "--figure", "2", "--runs", run, "--plot", tmp_path / "b.svg").code == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--figure", "12", "--plot", "a.png"), "no figure 12; choose from 1, 2"),
        (("--figure", "1", "--plot", "a.png"), "give --runs FOLDER"),
        (("--figure", "6"), "needs --plot FILE. The figures: 1: the threshold"),
        (("1", "--figure", "6"), "goes with --plot, --runs and --force alone"),
        (("7",), "no table '7'; choose from 1, 2"),
        (("1", "--json", "--csv"), "--json and --csv exclude each other"),
        (("--runs", "x"), "need the number of a table"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(
    cli: Cli, arguments: tuple[str, ...], message: str
) -> None:
    done = cli("paper", *arguments)
    assert done.code == 2
    assert message in done.error


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("table", strzoo.list_paper_tables())
def test_no_digit_is_cut_on_a_narrow_terminal(
    cli: Cli, table: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "screen_width", lambda: width)
    done = cli("paper", table)
    shown = done.out[done.out.index("\n") : done.out.index("source: ")].partition("\nnote: ")[0]
    lines = shown.partition("\ndiffers: ")[0].splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in done.out
    made = strzoo.load_paper_table(table)
    for row in made.results:
        assert f"{row.top1:.2f}" in done.out
        assert f"{row.sparsity:.2f}" in done.out
    for settings in made.hyperparameters:
        assert f"{settings.weight_decay:.10g}" in done.out
    for rank in made.ranks:
        assert rank.learned is None or f"{rank.learned:.2f}" in done.out
    if width == 60 and made.results:
        assert "left out, the terminal is too narrow: command" in done.err
