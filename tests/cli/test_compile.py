"""strzoo compile, and the commands that run on the sparse engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import strzoo
from strzoo.engine.storage.native_code import can_link
from tests.conftest import CliResult
from tests.helpers.engine.models import images
from tests.helpers.engine.networks import load_model, make_network
from tests.helpers.photographs import crop_photographs, write_class_folders

Cli = Callable[..., CliResult]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(load_model("small", 32), str(path))
    return path


def test_a_model_is_compiled_to_a_file_that_predicts_like_the_model(
    cli: Cli, path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.strz"
    done = cli("compile", path, "-o", file, "--threads", 1)
    assert done.code == 0
    # Four of a tenth of 2304 weights, as nothing is rounded up: 230 / 2304 = 9.98 %.
    assert "first" in done.out
    assert "9.98" in done.out
    assert "expected gain over dense" in done.out
    assert f"file: {file}" in done.out
    again = cli("compile", path, "-o", file, "--threads", 1)
    assert (again.code, again.error) == (
        1,
        f"{file} exists; pass --force (force=True) to overwrite it",
    )
    document = cli("compile", path, "--threads", 1, "--json", "-q").json
    assert (document["schema"], document["cached"], len(document["layers"])) == (1, True, 6)
    image = tmp_path / "a.png"
    crop_photographs(1)[0].save(image)
    answers = [
        cli("predict", *arguments, image, "--json").json["predictions"][0]["guesses"]
        for arguments in ((path,), (path, "--engine", "sparse"), (file,))
    ]
    for guesses in answers[1:]:
        assert [g["index"] for g in guesses] == [g["index"] for g in answers[0]]
        wanted = [pytest.approx(g["probability"], rel=1e-4) for g in answers[0]]
        assert [g["probability"] for g in guesses] == wanted


@pytest.mark.slow
@pytest.mark.skipif(not can_link(), reason="machine code in a file is for Linux on x86-64")
def test_machine_code_for_a_level_of_processors_is_put_into_the_file(
    cli: Cli, path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.strz"
    arguments = ("compile", path, "--threads", 1, "--cpu", "level", "--native", "-q")
    refused = cli(*arguments)
    assert (refused.code, "name the file with -o" in refused.error) == (2, True)
    assert cli(*arguments, "-o", file).code == 0
    x = images((3, 32, 32))
    expected = strzoo.compile(file)(x)
    assert np.array_equal(strzoo.compile(file, native=True)(x), expected)
    assert strzoo.compile(file, native=True).report.processor.startswith("x86_64-linux x86-64-v")


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_with_the_same_counts(cli: Cli, tmp_path: Path) -> None:
    network = make_network("resnet20", 0.9, size=32, classes=10)
    checkpoint = strzoo.save_checkpoint(network, tmp_path / "c.pth")
    names = [f"class{n}" for n in range(10)]
    write_class_folders(tmp_path / "data", names, [n % 10 for n in range(12)])
    arguments = (
        "evaluate",
        checkpoint,
        "--data",
        tmp_path / "data",
        "--workers",
        0,
        "--json",
        "-q",
    )
    dense, sparse = (cli(*arguments, *extra).json for extra in ((), ("--engine", "sparse")))
    assert sparse["precision"] == "fp32 (sparse engine)"
    for key in ("images", "correct_top1", "correct_top5", "weights_sha256"):
        assert sparse[key] == dense[key]
    assert sparse["loss"] == pytest.approx(dense["loss"], rel=1e-4)


def test_engines_that_do_not_fit_a_model_are_refused(cli: Cli, path: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    crop_photographs(1)[0].save(image)
    for arguments, problem in (
        ((path, "--engine", "torch"), "engine torch takes an id, a checkpoint or a network"),
        ((path, "--engine", "sparse", "--precision", "fp16"), "the sparse engine runs the dense"),
        (("a.strz", "--engine", "torch"), "is a compiled plan of the sparse engine"),
        (("a.strz",), "a.strz does not exist"),
    ):
        done = cli("predict", *arguments, image)
        assert done.code in (1, 2)
        assert problem in done.error
    done = cli("compile", path, "-o", tmp_path / "a.bin")
    assert (done.code, done.error) == (2, f"{tmp_path / 'a.bin'} must end in .strz")


def test_without_the_extra_each_command_says_how_to_install_it(
    cli: Cli, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    crop_photographs(1)[0].save(image)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    for arguments in (
        ("compile", path),
        ("benchmark", path, "--engines", "sparse"),
        ("predict", path, image, "--engine", "sparse"),
        ("evaluate", path, "--data", tmp_path, "--engine", "sparse"),
    ):
        done = cli(*arguments)
        assert done.code == 1
        assert "needs llvmlite: " in done.error
        assert done.error.endswith("pip install 'llvmlite>=0.45'")


@pytest.mark.slow
def test_the_cache_and_the_doctor_count_what_is_compiled(cli: Cli, path: Path) -> None:
    assert cli("compile", path, "--threads", 1, "-q").code == 0
    counted = cli("cache", "list", "--json").json["compiled"]
    assert counted["files"] >= 2  # the plan, its code and, on Linux, the processor
    assert counted["bytes"] > 100_000
    found = cli("doctor", "--json").json
    assert found["cache"]["compiled"].startswith(f"{counted['files']} (")
    assert found["versions"]["llvmlite"]
    removed = cli("cache", "prune", "--compiled", "--json").json["removed"]
    assert sum(file["bytes"] for file in removed) == counted["bytes"]
    assert cli("cache", "list", "--json").json["compiled"] == {"files": 0, "bytes": 0}
