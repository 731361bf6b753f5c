"""Images in memory, and what cannot be evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.errors import IntegrityError, StrzooError, UsageError


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_counts_are_those_of_a_plain_loop_for_any_batch_size(batch_size: int) -> None:
    torch.manual_seed(0)
    model = strzoo.create_model("resnet20").train()
    data = strzoo.load_digits("test")
    found = strzoo.evaluate(model, data, batch_size=batch_size)
    assert model.training
    model.eval()
    top1 = top5 = 0
    loss = 0.0
    with torch.no_grad():
        for image, label in zip(data.images, data.labels, strict=True):
            logits = model(image[None])[0].double()
            order = sorted(range(10), key=lambda c: -float(logits[c]))
            top1 += order[0] == int(label)
            top5 += int(label) in order[:5]
            loss -= float(torch.log_softmax(logits, 0)[label])
    assert (found.images, found.correct_top1, found.correct_top5) == (360, top1, top5)
    assert found.top1 == pytest.approx(100 * top1 / 360)
    assert found.loss == pytest.approx(loss / 360, rel=1e-4)
    assert len(found.predictions) == 360


def test_batches_serve_as_data_and_two_classes_have_no_top5() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    batches = [(torch.randn(2, 3, 1, 1), torch.tensor([0, 1])) for _ in range(3)]
    found = strzoo.evaluate(model, batches)
    assert (found.images, found.correct_top5) == (6, 6)


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(UsageError, match="no images"):
        strzoo.evaluate(model, [])
    with pytest.raises(UsageError, match="batch_size is 0"):
        strzoo.evaluate(model, ImageSet(torch.zeros(1), torch.zeros(1), 1), batch_size=0)
    with pytest.raises(StrzooError, match="does not exist"):
        strzoo.evaluate(tmp_path / "none.onnx", strzoo.load_digits("test"))
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(IntegrityError, match=r"bad\.onnx is not a readable ONNX model"):
        strzoo.evaluate(tmp_path / "bad.onnx", strzoo.load_digits("test"))
    (tmp_path / "page.onnx").write_bytes(b"<html><title>Quota exceeded</title></html>")
    with pytest.raises(IntegrityError, match=r"page\.onnx is a web page, not an ONNX model"):
        strzoo.evaluate(tmp_path / "page.onnx", strzoo.load_digits("test"))
