"""docs/tutorial.py runs on photographs, and its notebook is the same."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path

import nbformat
import pytest
import torch

import strzoo
from tools.write_notebook import NOTEBOOK, SCRIPT, make_notebook


@pytest.mark.slow
def test_the_tutorial_ends_at_a_sparse_network_that_answers_alike_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    assert "90.00 % zeros" in printed
    assert "times as fast" in printed
    assert found["dense"].best.top1 > 90  # four photographs; chance is 25
    assert found["sparse"].best.top1 > 90
    folder = found["folder"]
    assert strzoo.read_checkpoint(folder / "sparse" / "best_dense.pth").sparsity() == pytest.approx(
        90, abs=0.01
    )
    in_torch, in_onnx, in_engine = (found[f"in_{n}"] for n in ("torch", "onnx", "engine"))
    assert in_torch.images == 40
    assert torch.equal(in_torch.predictions, in_onnx.predictions)
    assert torch.equal(in_torch.predictions, in_engine.predictions)
    assert (folder / "model.strz").is_file()


def test_the_notebook_is_the_script() -> None:
    assert NOTEBOOK.read_text() == make_notebook(), "run tools/write_notebook.py"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells[:2]] == ["markdown", "code"]
