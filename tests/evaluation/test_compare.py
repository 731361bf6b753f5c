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
    assert any("images of different sizes" in note for note in document["notes"])
    shown = cli("compare", *models, "--no-predictions")
    assert "90.23" in shown.out
    assert "answers on the bundled" not in shown.out
    pytest.importorskip("matplotlib")
    assert cli("compare", *models[:2], "--no-predictions", "--plot", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_plan_and_other_architectures_say_what_cannot_be_compared(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite")
    network = Small(6, 3)
    plan = tmp_path / "small.strz"
    strzoo.compile(network, size=32, cache=False).save(plan)
    other = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = strzoo.compare([network, plan, other, "mobilenetv1_str_89.01"])
    assert made.names == ("Small", str(plan), "Sequential", "mobilenetv1_str_89.01")
    first, second, third, card = made.totals
    assert (second.source, second.weights, second.nonzeros) == ("plan", 52, 26)
    assert (first.nonzeros, second.sparse_macs) == (26, None)
    assert (third.weights, third.published_top1) == (54, None)
    # 62.10 % top-1 at 89.01 % sparsity: the published table.
    assert (card.published_top1, [line.verdict for line in card.published]) == (62.1, ["match"] * 3)
    assert made.layers[0].sparsity == (50.0, 50.0, None, None)
    assert (made.layers[0].spread, made.layers[-2].name) == (0.0, "fc")
    assert made.masks == ()
    # The plan answers as its network does; the other network has two classes.
    assert [(a.first, a.second, a.top1) for a in made.agreement] == [("Small", str(plan), 100.0)]
    said = "; ".join(made.notes)
    for needed in ("no masks and MACs", "Small and Sequential have 10 and 2 classes",
                   "Small and Sequential have no layer", "89.01: no predictions"):  # fmt: skip
        assert needed in said


def test_layers_of_other_names_are_matched_by_their_order() -> None:
    network = Small(6, 3)
    renamed = nn.Sequential(network.conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.fc)
    made = strzoo.compare([network, renamed], predictions=False)
    assert [layer.name for layer in made.layers] == ["conv", "fc"]
    assert [layer.spread for layer in made.layers] == [0.0, 0.0]
    assert (made.masks[0].layers, made.masks[0].overlap) == (2, 100.0)


def test_one_model_is_nothing_to_compare(cli: Cli) -> None:
    with pytest.raises(UsageError, match="two or more"):
        strzoo.compare(["resnet50_dense"])
    assert cli("compare", "resnet50_dense").code == 2
