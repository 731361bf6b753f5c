"""What people meet at a terminal: completion, formats by ending, advice, run folders."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
import torch
from click.shell_completion import ShellComplete

import strzoo
from strzoo import errors
from strzoo.benchmarking.results import LEAST_RUNS, UNCLEAR, Timing, judge, spell_verdicts
from strzoo.cli import PACKAGES
from strzoo.cli import cli as root
from strzoo.cli.completion import complete_model
from strzoo.evaluation import tables
from strzoo.training.folder import RunFolder
from strzoo.zoo.budgets import write_budget
from tests.conftest import CliResult
from tests.helpers.photographs import small_network

Cli = Callable[..., CliResult]
CHECKOUT = Path(__file__).resolve().parents[2]


def _complete(*words: str) -> list[str]:
    *before, incomplete = words
    shell = ShellComplete(root, {}, "strzoo", "_STRZOO_COMPLETE")
    return [item.value for item in shell.get_completions(before, incomplete)]


def test_ids_recipes_keys_budgets_and_tables_are_completed() -> None:
    assert _complete("report", "resnet50_str_9") == [
        name for name in strzoo.list_models() if name.startswith("resnet50_str_9")
    ]
    assert _complete("budgets", "compare", "resnet50_erk_90", "resnet50_u") == [
        "resnet50_uniform_90"
    ]
    assert _complete("train", "digits_s") == ["digits_str"]
    assert "har2_9_8" in _complete("rnn", "train", "har2")
    assert _complete("train", "digits_str", "target_s") == ["target_sparsity=", "target_start="]
    assert _complete("train", "digits_str", "compile=t") == ["compile=true"]
    assert "target_rank_w=" in _complete("rnn", "train", "har2_9_8", "target_r")
    assert "9" in _complete("paper", "")


def test_what_no_name_begins_with_is_completed_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    command = click.Command("any")
    for registry in ("", "/nowhere/registry.json"):
        monkeypatch.setenv("STRZOO_REGISTRY", registry)
        (item,) = complete_model(click.Context(command), click.Option(["--x"]), "runs/")
        assert item.type == "file"


def test_the_file_has_the_format_of_its_ending(cli: Cli, tmp_path: Path) -> None:
    def write(name: str, *more: str) -> str:
        assert cli("report", "mobilenetv1_str_89.01", "-o", tmp_path / name, *more).code == 0
        return (tmp_path / name).read_text()

    rows = list(csv.DictReader(write("r.csv").splitlines()))
    assert rows[0]["layer"] == "model.0.0"
    assert json.loads(write("r.json"))["model"] == "mobilenetv1_str_89.01"
    assert write("r.md").startswith("# mobilenetv1_str_89.01\n\n| layer | type")
    assert "41,756,440" in write("r.txt")
    assert write("r.data", "--format", "csv") == (tmp_path / "r.csv").read_text()
    for name, option, said in (
        ("r.docx", (), r"must end in one of .md, .csv, .json, .txt"),
        ("s.csv", ("--json",), "is the name of a csv file, not of json"),
    ):
        result = cli("report", "mobilenetv1_str_89.01", "-o", tmp_path / name, *option)
        assert result.code == 2
        assert said in result.error


def test_extras_and_packages_are_those_of_setup_cfg(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    extras = setup["options.extras_require"]
    for name, packages in errors.EXTRAS.items():
        assert extras[name].split() == list(packages)
    required = {line.split(">")[0] for line in setup["options"]["install_requires"].split()}
    assert set(PACKAGES.values()) == required - {"click"}  # without click there is no command
    # Another environment's pip comes first on the path: the interpreter's own is named.
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert errors.install_advice("engine") == "pip install 'llvmlite>=0.45'"
    monkeypatch.setenv("PATH", "/nowhere")
    assert errors.install_advice("torch") == f"{sys.executable} -m pip install torch"


@pytest.mark.parametrize("command", ["verify", "report", "predict"])
def test_without_torch_the_commands_say_what_to_install(
    command: str, cli: Cli, str_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("strzoo.checkpoint", "strzoo.evaluation")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = cli(command, str_file, *(["a.jpg"] if command == "predict" else []))
    assert result.code == 1
    assert "needs the package torch, which is not installed: " in result.error
    assert "pip install torch" in result.error


def test_fewer_runs_than_can_tell_are_not_blamed_on_noise() -> None:
    # All of six runs are faster: by chance that happens once in 64 times, not in 100.
    assert judge([1.0] * (LEAST_RUNS - 1), [2.0] * (LEAST_RUNS - 1)) == UNCLEAR
    assert judge([1.0] * LEAST_RUNS, [2.0] * LEAST_RUNS) != UNCLEAR
    row = Timing(
        model="a", engine="b", batch=1, runs=6, sparsity=90.0, p50=1.0, p90=1.0, p99=1.0,
        fastest=1.0, images_per_second=1.0, dense_onnxruntime=2.0, ratio=2.0, gain=2.0,
        verdict=UNCLEAR, peak_memory=None, file_bytes=None, latencies=(1.0,) * 6,
    )  # fmt: skip
    (few,) = spell_verdicts([row])
    assert few.endswith("6 runs are too few to tell; run at least 7 (--runs)")
    (many,) = spell_verdicts([dataclasses.replace(row, runs=7)])
    assert "the runs vary too much to tell" in many


def test_a_results_file_that_cannot_be_written_is_refused_before_the_work(
    cli: Cli, str_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    result = cli("evaluate", str_file, "--data", tmp_path / "none", "--csv", tmp_path / "r.csv")
    assert result.code == 1
    assert "r.csv: permission denied" in result.error
    (tmp_path / "r.csv").write_text(",".join(tables.COLUMNS) + "\n")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "r.csv")
    with pytest.raises(strzoo.StrzooError, match=r"r\.csv: permission denied"):
        tables.check_results_file(tmp_path / "r.csv")


def test_records_with_tensors_are_shown_in_one_line(tmp_path: Path) -> None:
    made = strzoo.build_checkpoint(small_network())
    assert repr(made) == f"Checkpoint(resnet20, dense, {len(made.state_dict)} tensors)"
    strzoo.save_checkpoint(made, tmp_path / "a.pth")
    assert repr(strzoo.read_checkpoint(tmp_path / "a.pth")).endswith(f"tensors, {tmp_path}/a.pth)")
    data = strzoo.load_digits()
    assert repr(data) == "ImageSet(1797x3x8x8 images, 10 classes)"


@pytest.mark.slow
def test_a_run_folder_stands_for_its_best_checkpoint_everywhere(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    network = strzoo.sparsify_(small_network(), "str", s_init=-4.0)
    best = strzoo.build_checkpoint(network)
    strzoo.save_checkpoint(best, run / "best_str.pth")
    learned = strzoo.extract_budget(network, architecture="resnet20", name="learned")
    write_budget(learned, run / "budget.json")
    read = strzoo.read_checkpoint(run)
    assert read.path == run / "best_str.pth"
    assert all(torch.equal(read.state_dict[k], v) for k, v in best.state_dict.items())
    for arguments in (
        ("report", run),
        ("budgets", "show", run),
        ("budgets", "extract", run),
        ("convert", run, tmp_path / "out.safetensors"),
        ("train", "digits_gmp", f"budget={run}", "--dry-run"),
    ):
        result = cli(*arguments)
        assert result.code == 0, (arguments, result.err)
    assert strzoo.load_budget(run) == learned
    config = dataclasses.replace(strzoo.TrainConfig(), output=str(run), resume=str(run))
    assert RunFolder(config).find_resume() == run / "last.pth"
    # What the published models are compared with says that it is none of them.
    for arguments in (("verify", run), ("import", run)):
        result = cli(*arguments)
        assert result.code == 4, result.err
        assert "is a folder" not in result.error
    result = cli("report", tmp_path)
    assert result.code == 2
    assert "a folder without best_str.pth or best_dense.pth" in result.error


def test_every_option_says_what_it_does() -> None:
    def options(command: click.Command) -> Iterator[tuple[str | None, click.Option]]:
        yield from ((command.name, o) for o in command.params if isinstance(o, click.Option))
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from options(inner)

    found = list(options(root))
    assert len(found) > 100
    assert [(name, o.opts) for name, o in found if not o.hidden and not o.help] == []
