"""Zeros of networks whose layers are used otherwise than once each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import strzoo
from strzoo.errors import VerificationError
from strzoo.export import export_onnx as onnx_export
from strzoo.export.zeros import check_zeros
from strzoo.onnx.graphs import build_graph


class Tied(nn.Module):
    """Two layers of one weight, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (
            nn.Conv2d(3, 16, 3, 2, 1),
            *(nn.Conv2d(16, 16, 3, 1, 1) for _ in range(2)),
        )
        self.b.weight = self.a.weight
        self.twice, self.fc = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(self.stem(x)).relu()).relu()
        x = self.twice(self.twice(x).relu()).relu()
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 10)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        scores: Tensor = self.fc(self.attention(tokens, tokens, tokens)[0].mean(1))
        return scores


class Adapted(nn.Linear):
    """A linear layer with a product of small matrices beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs) / 8)
        self.up = nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


def adapted() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         Adapted(8, 10))  # fmt: skip


@pytest.mark.parametrize("make", [Tied, Attention, adapted])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_layers_that_are_used_otherwise_than_once_are_exported(
    make: type[nn.Module], precision: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make().eval()
    strzoo.sparsify_(network, "gmp", prune_rate=0.9)
    made = strzoo.export_onnx(
        network, tmp_path / "network.onnx", input_size=16, precision=precision, tolerance=0.5
    )
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = network(x).argmax(1).tolist()
    if precision == "fp32":
        assert strzoo.evaluate(made.path, [(x, torch.tensor(expected))]).top1 == 100.0


def test_a_layer_that_lost_zeros_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*args: object, **options: object) -> onnx.ModelProto:
        model = build_graph(*args, **options)  # type: ignore[arg-type]
        tensor = next(t for t in model.graph.initializer if t.name.endswith("twice.weight"))
        values = numpy_helper.to_array(tensor).copy()
        values[np.unravel_index(np.flatnonzero(values == 0)[0], values.shape)] = 1e-9
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return model

    monkeypatch.setattr(onnx_export, "build_graph", damaged)
    network = Tied().eval()
    strzoo.sparsify_(network, "gmp", prune_rate=0.75)
    with pytest.raises(VerificationError, match="a layer of 256 weights has 191 zeros, 192 in"):
        strzoo.export_onnx(network, tmp_path / "network.onnx", input_size=16)
    assert list(tmp_path.iterdir()) == []


def test_zeros_are_compared_by_size() -> None:
    path = Path("file.onnx")
    check_zeros(path, [(9, 5), (9, 2), (4, 4)], [(9, 2), (9, 6), (100, 0)])  # one is not used
    check_zeros(path, [(9, 5), (9, 2)], [(9, 5), (9, 5), (9, 2)])  # one is used twice
    with pytest.raises(VerificationError, match="9 weights has 4 zeros, 5 in torch"):
        check_zeros(path, [(9, 5), (9, 2)], [(9, 4), (9, 2)])
    with pytest.raises(VerificationError, match="9 weights has 1 zeros, 2 in torch"):
        check_zeros(path, [(9, 5), (9, 2)], [(9, 5), (9, 5), (9, 1)])
