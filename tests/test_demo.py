from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import strzoo
from strzoo.demo import CONFIG, run_demo
from strzoo.errors import VerificationError
from tests.conftest import CliResult


@pytest.mark.slow
def test_a_demo_too_short_to_become_sparse_fails_its_own_check(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=2)
    steps: list[str] = []
    with pytest.raises(VerificationError, match="the demo promises 90 %"):
        run_demo(tmp_path, config, on_step=steps.append)
    # The whole road was gone all the same: the files are there and agree.
    assert len(steps) == 6
    test = strzoo.load_digits("test")
    results = [
        strzoo.evaluate(strzoo.load(tmp_path / "digits_str.pth"), test),
        strzoo.evaluate(strzoo.load(tmp_path / "digits_dense.pth"), test),
        strzoo.evaluate(tmp_path / "digits.onnx", test),
    ]
    assert len({result.correct_top1 for result in results}) == 1


@pytest.mark.slow
def test_the_command_ends_with_6_when_the_promise_is_broken(
    cli: Callable[..., CliResult], tmp_path: Path
) -> None:
    result = cli("demo", "--epochs", "1", "-o", tmp_path, "-q")
    assert result.code == 6
    assert "sparsity is" in result.error
