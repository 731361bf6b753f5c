"""Evaluation, training and compilation need no package that only other work needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import strzoo
from strzoo.analysis.counting import WITHOUT_FVCORE
from strzoo.checkpoint.reading import read_checkpoint
from strzoo.cli.output import Table
from strzoo.errors import StrzooError, required
from tests.helpers.photographs import small_network, write_class_folders
from tests.helpers.runs import run_program

# An interpreter in which some packages are not installed, as far as its imports can tell.
WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def __init__(self, names):
        self.names = set(names)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
absent = Absent(sys.argv[1].split(","))
sys.meta_path.insert(0, absent)
"""
COMMANDS = """
import contextlib, io, json
from strzoo.cli import run
folder = sys.argv[2]
results = []
def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    results.append([code, out.getvalue(), err.getvalue()])
evaluate = ("evaluate", f"{folder}/model.pth", "--data", f"{folder}/set", "--workers", 0)
command(*evaluate)
command(*evaluate, "--json")
command("report", f"{folder}/model.pth")
absent.names -= {"onnx", "onnxscript"}  # torch's optimizers look whether there is onnx
command("train", "digits_str", "epochs=1", "warmup_epochs=0", "batch_size=512",
        f"output={folder}/run")
command("convert", f"{folder}/model.pth", f"{folder}/copy.safetensors")
absent.names = {"gdown", "fvcore", "rich"}  # onnx has its own needs
command("export", f"{folder}/model.pth", "-o", f"{folder}/model.onnx")
command("compile", f"{folder}/model.onnx", "-o", f"{folder}/model.strz")
with open(f"{folder}/results.json", "w") as stream:
    json.dump(results, stream)
"""


@pytest.mark.slow
def test_evaluate_report_train_export_and_compile_run_without_the_packages_of_other_work(
    tmp_path: Path,
) -> None:
    write_class_folders(tmp_path / "set", [f"class{i}" for i in range(10)], list(range(10)))
    strzoo.save_checkpoint(strzoo.build_checkpoint(small_network()), tmp_path / "model.pth")
    absent = (
        "gdown,fvcore,rich,safetensors,requests,onnx,onnxscript"  # torch itself brings filelock
    )
    assert run_program(WITHOUT + COMMANDS, absent, tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    table, document, report, train, convert, export, compiled = results
    for code, _, err in (table, document, report, train, export, compiled):
        assert code == 0, err
    # The counts are those of this process, which has every package.
    here = strzoo.evaluate(tmp_path / "model.pth", tmp_path / "set", workers=0)
    found = json.loads(document[1])
    assert (found["correct_top1"], found["correct_top5"]) == (here.correct_top1, here.correct_top5)
    assert f"{here.correct_top1} of 10" in table[1]
    # ResNet20 at 32x32: 3x3 convolutions of 442,368 + 14,155,776 + 2 x 12,976,128, two shortcuts
    # of 131,072, classifier 640, pool 4,096. The report says who counted.
    assert "MACs dense 40,817,280" in report[1]
    assert WITHOUT_FVCORE in report[1]
    assert "epoch 1 done" in train[2]
    assert (tmp_path / "run" / "report.md").exists()
    assert (tmp_path / "model.strz").exists()
    # What does need a package names it.
    assert convert[0] == 1
    assert convert[2].startswith("strzoo: error: ")
    assert "needs the package safetensors, which is not installed: " in convert[2]
    assert convert[2].endswith("pip install safetensors\n")


def test_reading_safetensors_and_downloading_name_the_package_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = strzoo.build_checkpoint(small_network())
    strzoo.save_checkpoint(made, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(StrzooError, match=r"model\.safetensors needs the package safetensors"):
        read_checkpoint(tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(StrzooError, match="downloading needs the package requests"):
        strzoo.download("resnet50_dense")


def test_another_missing_module_is_not_mistaken_for_the_package() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match="other"),
        required("safetensors", "reading"),
    ):
        raise ModuleNotFoundError("No module named 'other'", name="other")


def test_a_plain_table_aligns_text_left_and_numbers_right() -> None:
    table = Table(("layer", "weights"), [("conv1", "9,408"), ("fc", "12")], title="resnet")
    assert str(table) == "resnet\nlayer  weights\nconv1    9,408\nfc          12"
