"""export, inspect, benchmark and matrices from the command line: results, exit codes, streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from tests.conftest import CliResult
from tests.helpers.published import str_state

Cli = Callable[..., CliResult]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet20 of 90 % sparsity."""
    path = tmp_path_factory.mktemp("cli") / "resnet20.pth"
    torch.save({"state_dict": str_state("resnet20", 90.0)}, path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The result of `strzoo export` in a process of its own, with all its streams."""
    path = checkpoint.with_suffix(".onnx")
    command = [sys.executable, "-m", "strzoo", "export", str(checkpoint), "-o", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return path, done


def test_stdout_holds_the_result_alone_and_the_exporters_talk_is_not_on_the_terminal(
    exported: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    path, done = exported
    assert done.returncode == 0
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document == json.loads(path.with_name("resnet20.onnx.json").read_text())
    assert document["schema"] == 1
    assert document["opset"] == 21
    assert document["relative_difference"] < 1e-5


@pytest.mark.slow
def test_export_prints_size_sparsity_and_agreement(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {n}" for n in range(10)))
    path = tmp_path / "a.onnx"
    done = cli(
        "export", checkpoint, "-o", path, "--precision", "int8", "--class-names", names,
        "--images", "photographs", "--softmax", "--batch", 2, "--opset", 20,
    )  # fmt: skip
    assert done.code == 0
    assert f"int8, opset 20, {path.stat().st_size / 1e3:.1f} kB, sparsity 9" in done.out
    assert "output probabilities float32 [2, 10]" in done.out
    assert "top-1 agreement with fp32" in done.out
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(stored["strzoo.class_names"])[9] == "class 9"


@pytest.mark.slow
def test_a_failed_check_ends_with_exit_code_6_and_no_file(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    done = cli("export", checkpoint, "-o", tmp_path / "a.onnx", "--tolerance", "0")
    assert done.code == 6
    assert "more than the tolerance 0 (--tolerance, tolerance=); nothing was written" in done.error
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_end_in_one_line(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.onnx"
    for arguments, code, message in (
        (["export", checkpoint, "-o", tmp_path / "a.pth"], 2, "must end in .onnx"),
        (["export", checkpoint, "-o", output, "--opset", "3"], 2, "opset 3 is not between 15"),
        (["export", checkpoint, "-o", output, "--input-size", "big"], 2, "is not SIZE"),
        (["export", checkpoint, "-o", output, "--images", "x"], 2, "x is not a folder of images"),
        (["export", "resnet5", "-o", output], 2, "ambiguous"),
        (["export", "resnet50_str_90.23", "-o", output, "--offline"], 5, "resnet50_str_90.23"),
        (["inspect", tmp_path / "none.onnx"], 1, "does not exist"),
        (["inspect", checkpoint], 4, "is not a readable ONNX model"),
        (["benchmark", checkpoint, "--engines", "tvm"], 2, "'tvm' is not one of"),
        (["benchmark", checkpoint, "--batch", "1,x"], 2, "'1,x' is not a list"),
        (["matrices", checkpoint, "-o", tmp_path / "m", "--formats", "csv"], 2, "'csv' is not"),
        (
            ["matrices", checkpoint, "-o", tmp_path / "m", "--max-images", "2"],
            2,
            "--max-images is for the images of --images",
        ),
    ):
        done = cli(*arguments)
        assert done.code == code, done.err
        assert message in done.error
        assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_inspect_and_report_show_an_onnx_file(
    cli: Cli, exported: tuple[Path, subprocess.CompletedProcess[str]], checkpoint: Path
) -> None:
    path, _ = exported
    table = cli("inspect", path)
    assert table.code == 0
    assert "opset ai.onnx 21" in table.out
    assert "input images float [batch, 3, 32, 32]; output logits float [batch, 10]" in table.out
    document = cli("inspect", path, "--json").json
    expected = cli("report", checkpoint, "--input-size", "32", "--json").json
    for figure in ("weights", "nonzeros", "sparsity", "dense_macs", "sparse_macs"):
        assert document["totals"][figure] == expected["totals"][figure]
    assert document["onnx"]["metadata"]["strzoo.architecture"] == "resnet20"
    assert cli("report", path, "--json").json["totals"] == document["totals"]
    assert cli("inspect", path, "--format", "csv").out.startswith("layer,type,shape,params")


def test_benchmark_prints_a_table_or_one_document(
    cli: Cli, exported: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    path, _ = exported
    options = ("--engines", "onnxruntime", "--runs", 3, "--batch", "1,2", "--no-memory")
    done = cli("benchmark", path, *options)
    assert done.code == 0
    assert done.out.count("onnxruntime, batch") == 2  # a verdict for each batch
    assert "90.00 % zeros" in done.out
    document = cli("benchmark", path, *options, "--json").json
    assert document["schema"] == 1
    assert [(row["batch"], row["runs"]) for row in document["timings"]] == [(1, 3), (2, 3)]


def test_matrices_writes_a_folder_and_says_what_is_in_it(
    cli: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    done = cli("matrices", checkpoint, "-o", folder, "--formats", "smtx", "--images", "photographs")
    assert done.code == 0
    assert "22 layers as smtx, inputs of 4 images" in done.out
    index = json.loads((folder / "index.json").read_text())
    assert len(index["layers"]) == 22
    assert len(list(folder.glob("*.input.npy"))) == 22
    assert cli("matrices", checkpoint, "-o", folder).code == 1
