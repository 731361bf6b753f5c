"""What the evaluation tests share: the classes, and the comparison with a naive count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from strzoo.evaluation.results import EvalResult

COUNT = 37
CLASSES = [f"class{i}" for i in range(10)]


def check(result: EvalResult, expected: dict[str, Any]) -> None:
    assert result.images == expected["images"]
    assert result.correct_top1 == expected["correct_top1"]
    assert result.correct_top5 == expected["correct_top5"]
    assert torch.equal(result.predictions, expected["predictions"])
    assert result.loss == pytest.approx(expected["loss"], rel=1e-5)
