"""One network in its different files gives one answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strzoo
from strzoo.data.preprocessing import IMAGENET, SMALL
from tests.helpers.expectations import check
from tests.helpers.photographs import (
    crop_photographs,
    jpeg,
    small_network,
)
from tests.helpers.published import str_state, write_published


@pytest.mark.slow
def test_str_dense_torchvision_and_onnx_forms_agree(tmp_path: Path) -> None:
    source = write_published(tmp_path / "str.pth", str_state("resnet18", 80.0), "resnet18")
    strzoo.convert(source, tmp_path / "dense.pth")
    strzoo.convert(source, tmp_path / "torchvision.pth", layout="torchvision")
    strzoo.export_onnx(source, tmp_path / "model.onnx", input_size=(3, 64, 64))
    small = replace(IMAGENET, resize=72, crop=64)  # a tenth of the work
    folder = tmp_path / "set" / "n01440764"
    folder.mkdir(parents=True)
    for number, image in enumerate(crop_photographs(9, seed=3)):
        (folder / f"{number}.JPEG").write_bytes(jpeg(image))
    names = ("str.pth", "dense.pth", "torchvision.pth", "model.onnx")
    found = {
        n: strzoo.evaluate(
            tmp_path / n, tmp_path / "set", batch_size=4, workers=0, preprocessing=small
        )
        for n in names
    }
    for result in found.values():
        assert torch.equal(result.predictions, found["str.pth"].predictions)
        assert result.loss == pytest.approx(found["str.pth"].loss, rel=1e-4)
    assert found["model.onnx"].precision == "fp32 (CPUExecutionProvider)"
    # The logits themselves, through the same door as `evaluate`.
    logits = {}
    from strzoo.evaluation.opener import open_runner
    from strzoo.evaluation.runner import RunnerOptions
    from strzoo.hub.resolve import resolve

    pixels = torch.from_numpy(
        np.stack([np.asarray(p.resize((64, 64))) for p in crop_photographs(3, seed=8)])
    )
    for name in names:
        with open_runner(resolve(tmp_path / name), RunnerOptions()) as runner:
            logits[name] = runner.forward(runner.prepare(pixels))
    largest = float(logits["str.pth"].abs().max())
    for other in logits.values():
        assert float((other - logits["str.pth"]).abs().max()) <= 1e-4 * largest


@pytest.mark.slow
def test_an_onnx_file_of_a_fixed_batch_and_built_in_preprocessing_counts_the_same(
    data: tuple[Path, list[Path], list[int]], expected: dict[str, Any], tmp_path: Path
) -> None:
    kinds: dict[str, dict[str, Any]] = {"fixed": {"batch": 8}, "bytes": {"preprocessing": True}}
    for name, options in kinds.items():
        path = tmp_path / f"{name}.onnx"
        strzoo.export_onnx(small_network(), path, input_size=(3, 32, 32), **options)
        result = strzoo.evaluate(path, data[0], workers=1, preprocessing=SMALL)
        check(result, expected)
