"""What starting the command line imports: guarded in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from strzoo.cli import run
code = run({arguments!r})
heavy = [name for name in ("torch", "numpy", "torchvision", "onnxruntime") if name in sys.modules]
sys.stderr.write(f"{{code}} {{heavy}}")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "--json"],
        ["info", "resnet50_dense"],
        ["report", "resnet50_str_90.23"],
        ["verify"],
        ["budgets", "list"],
        ["budgets", "compare", "resnet50_str_90.23", "resnet50_erk_90"],
        ["report", "mobilenetv1_str_89.01"],
        ["paper"],
        ["paper", "1"],
        ["paper", "9", "--json"],
        ["convert", "--help"],
        ["evaluate", "--help"],
        ["predict", "--help"],
        ["train", "--help"],
        ["train", "--list"],
        ["train", "--keys"],
        ["train", "resnet50_str_90.23", "--show"],
    ],
)
def test_commands_that_need_no_torch_do_not_import_it(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments)], capture_output=True, text=True
    )
    assert done.stderr == "0 []"
    assert done.stdout


@pytest.mark.slow
def test_importing_strzoo_imports_nothing_heavy_and_every_public_name_exists() -> None:
    program = (
        "import sys, strzoo; assert 'torch' not in sys.modules; "
        "assert all(getattr(strzoo, name) is not None for name in strzoo.__all__)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
