"""Code that a recipe's file names runs only if the user names it too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import strzoo
from strzoo.errors import IntegrityError
from tests.conftest import CliResult

Cli = Callable[..., CliResult]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module that leaves a trace when it is imported."""
    (tmp_path / "theirs.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
        "import torch\n"
        "def network(num_classes=10):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, num_classes))\n"
        "class Loss(torch.nn.CrossEntropyLoss):\n    pass\n"
        "class Optimizer(torch.optim.SGD):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("architecture: theirs:network", "model=theirs:network"),
        ("loss: theirs.Loss", "loss=theirs.Loss"),
        ("optimizer: theirs.Optimizer", "optimizer=theirs.Optimizer"),
    ],
)
def test_a_file_alone_runs_no_code(line: str, given: str, folder: Path, cli: Cli) -> None:
    (folder / "theirs.yaml").write_text(f"extends: digits_dense\n{line}\n")
    (folder / "next.yaml").write_text("extends: theirs.yaml\nepochs: 3\n")
    for recipe in ("theirs.yaml", "next.yaml"):
        for more in ((), ("--dry-run",)):
            made = cli("train", recipe, "epochs=1", "warmup_epochs=0", *more)
            assert made.code == 4
            assert "which runs only if you name it as well" in made.error
        with pytest.raises(IntegrityError, match="pass the TrainConfig of"):
            strzoo.train(recipe)
    assert cli("train", "theirs.yaml", "--show").code == 0
    assert not (folder / "ran").exists()
    made = cli("train", "theirs.yaml", given, "epochs=3", "output=run")
    assert made.code == 0, made.err
    assert (folder / "ran").exists()


def test_recipes_that_name_no_code_are_taken_as_they_are(folder: Path, cli: Cli) -> None:
    (folder / "mine.yaml").write_text("extends: digits_dense\noptimizer: adamw\nepochs: 3\n")
    assert cli("train", "mine.yaml", "--dry-run").code == 0
