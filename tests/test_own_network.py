"""docs/own-network.md: each command and example of the page runs, in order, on photographs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import strzoo
from tests.helpers.photographs import write_class_folders

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own-network.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
# A small network, without weights to fetch, and short runs.
REPLACED = {
    "model=timm:mobilenetv2_100 pretrained=true":
    "model=timm:test_resnet model_args.channels=[16,16,16,16] image_size=32",
}  # fmt: skip
_FEW = ["--images=8", "--workers=0"]
APPENDED = {
    "train": ["epochs=1", "warmup_epochs=0", "batch_size=8", "workers=0", "tensorboard=false"],
    "tradeoff": ["--sparsities=0", "--engines=onnxruntime", "--runs=1", *_FEW],
    "prune": _FEW,
    "evaluate": ["--workers=0"],
}


@pytest.mark.slow
def test_the_page_leads_from_a_dense_network_to_a_compiled_sparse_one(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_class_folders(Path("photos"), ("bark", "cat"), [0, 1] * 12)
    commands = []
    for language, text, printed in BLOCKS:
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "own-network.md", "exec"), {})
            assert not printed or out.getvalue() == printed
            continue
        for line in text.strip().splitlines():
            for long, short in REPLACED.items():
                line = line.replace(long, short)
            _, command, *words = shlex.split(line)
            result = cli(command, *words, *APPENDED.get(command, ()))
            assert result.code == 0, f"{line}: {result.err}"
            commands.append(command)
    assert commands == [
        "train", "tradeoff", "prune", "train", "report", "evaluate", "export", "compile", "predict",
    ]  # fmt: skip
    assert all(Path(name).is_file() for name in ("frontier.png", "model.onnx", "model.strz"))
    assert strzoo.read_checkpoint("pruned.pth").sparsity() == pytest.approx(70, abs=0.01)
    kept = strzoo.read_checkpoint("sparse/best_dense.pth")
    assert kept.sparsity() == pytest.approx(90, abs=0.1)
    assert kept.trained_on is not None
    assert kept.trained_on.class_names == ("bark", "cat")


def test_every_file_that_the_page_leads_to_exists() -> None:
    folder = Path(__file__).resolve().parent.parent / "docs"
    for name in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (folder / name).is_file(), name
