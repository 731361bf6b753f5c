"""Photographs with a naive count of what a tiny network makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.expectations import CLASSES, COUNT
from tests.helpers.photographs import (
    crop_photographs,
    jpeg,
    reference_logits,
    small_network,
    write_class_folders,
)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny networks, one image at a time: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[int]]:
    """Photographs whose labels are right for about half of them: folder, paths, labels in the
    order of evaluation (by class, then by name)."""
    folder = tmp_path_factory.mktemp("photographs")
    scratch = write_class_folders(folder / "scratch", ["all"], [0] * COUNT)
    answers = reference_logits(small_network(), scratch, resize=32, crop=32).argmax(1).tolist()
    labels = [a if i % 2 else (a + i) % 10 for i, a in enumerate(answers)]
    paths = []
    for name in CLASSES:
        (folder / "set" / name).mkdir(parents=True)
    for path, label in zip(scratch, labels, strict=True):
        target = folder / "set" / CLASSES[label] / path.name
        target.write_bytes(path.read_bytes())
        paths.append(target)
    # A class without images still is a class.
    for name in CLASSES:
        if not any((folder / "set" / name).iterdir()):
            extra = folder / "set" / name / "999.JPEG"
            extra.write_bytes(jpeg(crop_photographs(1, seed=5)[0]))
            paths.append(extra)
            labels.append(CLASSES.index(name))
    order = sorted(range(len(paths)), key=lambda i: paths[i].as_posix())
    return folder / "set", [paths[i] for i in order], [labels[i] for i in order]


@pytest.fixture(scope="module")
def expected(data: tuple[Path, list[Path], list[int]]) -> dict[str, Any]:
    """Counted naively: one image at a time, plain PIL and numpy."""
    _, paths, labels = data
    logits = reference_logits(small_network(), paths, resize=32, crop=32).double()
    top1 = top5 = 0
    loss = 0.0
    for row, label in zip(logits, labels, strict=True):
        above = int((row > row[label]).sum())
        top1 += above == 0
        top5 += above < 5
        loss += math.log(sum(math.exp(v) for v in row.tolist())) - float(row[label])
    return {
        "images": len(labels),
        "correct_top1": top1,
        "correct_top5": top5,
        "loss": loss / len(labels),
        "predictions": logits.argmax(1),
    }
