"""What reaches a terminal, and what becomes of it where there is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

import strzoo
from tests.conftest import CliResult
from tests.helpers.photographs import small_network

Cli = Callable[..., CliResult]
CHECKOUT = Path(__file__).resolve().parents[2]
ORDER = "\x1b]0;title\x07\x1b[2J\x9b1A\u202e"  # a title, a clear screen, a line up, a direction


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An ONNX file and an image whose names are orders to a terminal."""
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "network.onnx"
    strzoo.export_onnx(small_network(), path, class_names=[f"class {i}" for i in range(10)])
    model = onnx.load(path)
    for node in model.graph.node:
        node.name += ORDER
    for entry in model.metadata_props:
        if entry.key in ("strzoo.model", "strzoo.architecture"):
            entry.value = f"{ORDER}{entry.value}"
        elif entry.key == "strzoo.class_names":
            entry.value = json.dumps([f"{name}{ORDER}" for name in json.loads(entry.value)])
    onnx.save(model, path)
    image = folder / f"image{ORDER.replace('/', '')}.png"
    Image.new("RGB", (40, 40), "red").save(image)
    return path, image


@pytest.mark.parametrize("command", ["predict", "report", "inspect", "compare", "compile"])
def test_names_from_files_are_no_orders_to_the_terminal(
    command: str, hostile: tuple[Path, Path], cli: Cli
) -> None:
    path, image = hostile
    if command == "compile":
        pytest.importorskip("llvmlite")
    made = cli(command, path, *([image] if command == "predict" else []),
               *([path] if command == "compare" else []))  # fmt: skip
    assert made.code == 0, made.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", made.out + made.err)
    if command == "predict":
        assert "\\x1b]0;title\\x07" in made.out


def test_everything_is_printed_by_the_functions_that_make_it_printable() -> None:
    folder = CHECKOUT / "strzoo" / "cli"
    others = [
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"click\.(s?echo)\(|(?<![\w.])print\(", path.read_text())
    ]
    assert others == ["output.py"]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by a shell")
@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("arguments", ["list", "list --json", "--version", "--help"])
def test_standard_streams_may_be_closed(closed: str, arguments: str) -> None:
    made = subprocess.run(
        f"{sys.executable} -m strzoo {arguments} {closed}",
        shell=True, cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert made.returncode == 0
    assert made.stderr == ""


def test_a_closed_input_is_empty(tmp_path: Path) -> None:
    torch.save(small_network().state_dict(), tmp_path / "network.pth")
    made = subprocess.run(
        f"{sys.executable} -m strzoo predict {tmp_path / 'network.pth'} - <&-",
        shell=True, cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert made.returncode == 4
    assert "the file is empty" in made.stderr
