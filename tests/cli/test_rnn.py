"""`strzoo rnn` from training to every form of file, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strzoo.rnn import FastGRNN, SequenceClassifier, list_recipes, save_rnn
from tests.conftest import CliResult

Cli = Callable[..., CliResult]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for the digits' rows."""
    rnn = FastGRNN(8, 16, rank_w="learned", rank_u=3)
    return save_rnn(SequenceClassifier(rnn, 10), tmp_path_factory.mktemp("rnn") / "m.pth")


def test_a_recipe_is_trained_and_its_best_network_evaluated(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cli("rnn", "train", "digits", "epochs=3", "milestones=2", "hidden_size=12",
               "optimizer=adam", "learning_rate=0.02", f"output={folder}", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert len(done.json["history"]) == 3
    assert done.err.count("epoch ") == 3
    best = done.json["best"]
    found = cli("rnn", "evaluate", best["file"], "--json")
    assert found.json["top1"] == pytest.approx(best["top1"])
    assert found.json["sequences"] == 360
    again = cli("rnn", "train", "digits", f"output={folder}")
    assert (again.code, "is not empty" in again.error) == (1, True)


def test_recipes_keys_and_configurations_are_shown(cli: Cli) -> None:
    assert "har2_9_8" in cli("rnn", "train", "--list").out
    keys = cli("rnn", "train", "--keys", "--json").json["keys"]
    assert {row["key"]: row["default"] for row in keys}["rank_w"] == "learned"
    shown = cli("rnn", "train", "har2_9_8", "rank_w=9", "--show", "--json").json["config"]
    assert (shown["rank_w"], shown["weight_decay"]) == (9, 0.001)
    done = cli("rnn", "train", "har2_9_8")
    assert (done.code, done.error) == (2, "dataset=har2 needs data=FOLDER")
    assert cli("rnn", "train").error == "name a recipe; strzoo rnn train --list shows them"


def test_a_model_is_reported_exported_and_converted(cli: Cli, model: Path, tmp_path: Path) -> None:
    report = cli("rnn", "report", model, "--steps", 8, "--json").json
    # W: 8x8 and 8x16; U: 16x3 and 3x16; the classifier 16x10.
    assert report["totals"]["macs"] == 8 * (8 * 8 + 8 * 16 + 2 * 16 * 3) + 160
    assert "rnn.cells.0.U" in cli("rnn", "report", model).out
    for name in ("m.onnx", "m.h"):
        made = cli("rnn", "export", model, tmp_path / name, "--precision", "int8", "--json").json
        assert made["bytes"] == (tmp_path / name).stat().st_size
    assert "equal to torch within" in cli("rnn", "export", model, tmp_path / "n.onnx").out
    expected = cli("rnn", "evaluate", model, "--json").json["top1"]
    for form, name in (("edgeml", "folder"), ("edgeml", "e.pth"), ("strzoo", "s.pth")):
        assert cli("rnn", "convert", model, tmp_path / name, "--to", form).code == 0
        assert cli("rnn", "evaluate", tmp_path / name, "--json").json["top1"] == expected
    assert cli("rnn", "evaluate", model, "--int8").out.count("int8") == 1


def test_the_commands_for_all_models_take_these_networks(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    listed = cli("train", "--list", "--json").json
    assert set(listed["groups"][-1]["recipes"]) == set(list_recipes())
    folder = tmp_path / "run"
    quick = ("epochs=1", "milestones=0.5", "hidden_size=8", f"output={folder}")
    done = cli("train", "digits_fastgrnn", *quick, "--json")
    assert done.json["last"]["epoch"] == 1
    assert cli("report", folder, "--json").json["model"] == done.json["best"]["file"]
    # W: 8x8 and 8x16; U: 16x3 and 3x16; the classifier 16x10.
    report = cli("report", model)
    assert f"weights {8 * 8 + 8 * 16 + 2 * 16 * 3 + 160}" in report.out
    made = cli("convert", model, tmp_path / "folded.pth", "--verify")
    assert "fastgrnn, learned ranks -> dense" in made.out
    assert "input sequences float32 [batch, steps, 8]" in cli(
        "export", model, "-o", tmp_path / "m.onnx"
    ).out  # fmt: skip
    # 9x9 and 9x80, 80x80 twice, 80x2; biases, zeta, nu.
    plan = cli("train", "har2_9_8", "--dry-run")
    assert f"{81 + 720 + 2 * 6400 + 160 + 160 + 2 + 2:,} parameters" in plan.out
    assert f"for {128} steps" in plan.out
    (tmp_path / "mine.yaml").write_text(cli("rnn", "train", "har2_9_8", "--show").out)
    same = cli("train", tmp_path / "mine.yaml", "seed=1", "--show", "--json").json["config"]
    assert (same["dataset"], same["seed"]) == ("har2", 1)
    unknown = cli("train", "edgeml.yaml", "--dry-run")
    assert "does not exist" in unknown.error
    assert "try har2_9_8" in cli("train", "har2_9_9").error
    own = "dataset: edgeml\nfeatures: 3\n"
    (tmp_path / "own.yaml").write_text(own)
    assert "give data=" in cli("train", tmp_path / "own.yaml", "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "none.pth"], 1, "none.pth does not exist"),
        (["export", "MODEL", "m.txt"], 2, "m.txt ends in neither .onnx nor .h"),
        (["evaluate", "MODEL", "--dataset", "mnist"], 2, "dataset='mnist' is not one of"),
        (["evaluate", "MODEL", "--gate", "tanh"], 2, "which names its gates and orientation"),
        (["train", "digit"], 2, "no FastGRNN recipe 'digit'; try digits_fastgrnn"),
        (["train", "digits", "epoch=3"], 2, "unknown key 'epoch'"),
    ],
)
def test_a_mistake_is_one_line(
    cli: Cli, model: Path, arguments: list[str], code: int, message: str
) -> None:
    done = cli("rnn", *[str(model) if a == "MODEL" else a for a in arguments])
    assert (done.code, message in done.error) == (code, True), done.err


def test_a_damaged_file_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"PK\x03\x04 and no more")
    assert cli("rnn", "report", tmp_path / "m.pth").code == 4
    (tmp_path / "j.pth").write_text(json.dumps({}))
    done: Any = cli("rnn", "report", tmp_path / "j.pth")
    assert (done.code, "is not a checkpoint" in done.error) == (4, True)


def test_a_folder_that_would_not_be_read_is_refused(cli: Cli, model: Path, tmp_path: Path) -> None:
    done = cli("rnn", "evaluate", model, "--data", tmp_path)
    assert (done.code, "--data is for the other datasets" in done.error) == (2, True)
