"""Networks that cannot be exported or compiled: their own words reach the user."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.errors import StrzooError
from strzoo.evaluation.evaluate import evaluate


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.layer(x).mean((2, 3))
        return scores, scores


def two_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Pair, "returns a tuple of 2 with tensors"),
        (lambda: nn.Conv2d(3, 10, 3), "expected floats of shape.*torch.onnx.export, and give the"),
        (lambda: nn.Conv1d(3, 10, 3, 2), "first convolution is a Conv1d.*torch.onnx.export"),
        (lambda: nn.Conv3d(3, 10, 3), "first convolution is a Conv3d.*torch.onnx.export"),
        (two_channels, r"\(channels, height, width\) if it has not three channels"),
    ],
)
def test_the_same_is_said_by_export_and_compile(
    make: type[nn.Module], said: str, tmp_path: Path
) -> None:
    pytest.importorskip("llvmlite")
    network = make().eval()
    with pytest.raises(StrzooError, match=said) as exported:
        strzoo.export_onnx(network, tmp_path / "network.onnx", input_size=16)
    with pytest.raises(StrzooError, match=said) as compiled:
        strzoo.compile(network, 1, size=16)
    for error in (exported, compiled):
        assert "<class" not in str(error.value)
        assert "GraphModule" not in str(error.value)


def test_a_network_of_two_channels_is_told_what_images_have(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "0.png")
    network = two_channels().eval()
    with pytest.raises(StrzooError, match="image files have three channels, or one as grey"):
        evaluate(network, tmp_path, workers=0)
    pixels = torch.zeros(2, 2, 16, 16)
    assert evaluate(network, [(pixels, torch.tensor([0, 1]))]).images == 2
