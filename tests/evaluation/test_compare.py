"""strzoo.compare and strzoo compare: any mix of models, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import UsageError
from tests.conftest import CliResult

Cli = Callable[..., CliResult]


class Small(nn.Module):
    """Two layers on images of 32 pixels: 4 x 3 x 1 x 1 and 10 x 4 weights."""

    def __init__(self, kept: int, favourite: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.fc = nn.Linear(4, 10)
        with torch.no_grad():
            self.conv.weight.fill_(1.0).flatten()[kept:] = 0.0
            self.fc.weight.fill_(1.0).flatten()[:20] = 0.0
            self.fc.bias.copy_(-torch.arange(10.0)).index_fill_(0, torch.tensor(favourite), 1e6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(self.conv(x).mean((2, 3)))
        return result


def test_networks_are_compared_by_totals_layers_masks_and_answers() -> None:
    made = strzoo.compare([Small(6, 3), Small(9, 3), Small(12, 4)])
    assert made.names == ("Small (1)", "Small (2)", "Small (3)")
    # 12 + 40 weights, of which 6, 9 or 12 and always 20 are left.
    assert [r.nonzeros for r in made.reports if r is not None] == [26, 29, 32]
    conv, fc = made.layers
    assert conv.sparsity == (50.0, 25.0, 0.0)
    assert fc.sparsity == (50.0, 50.0, 50.0)
    first = made.masks[0]
    # The first 6 of 9, and the same 20: 26 of 29 places. Independent masks would share
    # 6 x 9 / 12 + 20 x 20 / 40 = 14.5 of 26 + 29 - 14.5 = 40.5.
    assert (first.both, first.either, first.layers) == (26, 29, 2)
    assert first.overlap == pytest.approx(100 * 26 / 29)
    assert first.chance == pytest.approx(100 * 14.5 / 40.5)
    assert [(a.first, a.second, a.top1) for a in made.agreement] == [
        ("Small (1)", "Small (2)", 100.0),
        ("Small (1)", "Small (3)", 0.0),
        ("Small (2)", "Small (3)", 0.0),
    ]
    # Three photographs, and nine windows of each.
    assert made.agreement[0].images == 30


def test_onnx_files_and_ids_join_in(
    cli: Cli, resnet20_file: Path, resnet20_onnx: strzoo.OnnxExport, tmp_path: Path
) -> None:
    models = (resnet20_file, resnet20_onnx.path, "resnet50_str_90.23")
    document = cli("compare", *models, "--json").json
    first, second, _ = document["models"]
    assert first["nonzeros"] == second["nonzeros"]
    (pair,) = document["masks"]
    assert (pair["overlap"], pair["layers"]) == (100.0, len(strzoo.report(resnet20_file).layers))
    (agreement,) = document["agreement"]
    assert agreement["top1"] == 100.0
    assert any("not in the cache" in note for note in document["notes"])
    shown = cli("compare", *models, "--no-predictions")
    assert "90.23" in shown.out
    assert "answers on the bundled" not in shown.out
    pytest.importorskip("matplotlib")
    assert cli("compare", *models[:2], "--no-predictions", "--plot", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_one_model_is_nothing_to_compare(cli: Cli) -> None:
    with pytest.raises(UsageError, match="two or more"):
        strzoo.compare(["resnet50_dense"])
    assert cli("compare", "resnet50_dense").code == 2
