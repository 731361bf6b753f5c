from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import strzoo
from strzoo.analysis.counting import count_dense
from strzoo.analysis.dense_counts import shipped_counts
from strzoo.analysis.rendering import to_csv, to_markdown
from strzoo.errors import StrzooError
from strzoo.settings import Settings
from tests.helpers.published import str_state, write_published


@pytest.mark.parametrize("architecture", ["mobilenetv1", "resnet50"])
def test_the_shipped_counts_are_those_of_a_fresh_count(architecture: str) -> None:
    fresh = count_dense(strzoo.create_model(architecture), name=architecture)
    assert shipped_counts(architecture) == fresh


def test_a_dense_resnet50_costs_what_the_paper_says() -> None:
    report = strzoo.report("resnet50_dense")
    assert report.dense_macs == 4_089_284_608
    assert report.params == 25_556_032
    assert report.weights == 25_502_912
    assert dict(report.other_macs) == {"adaptive_avg_pool2d": 100_352}


def _small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 5),
    )


def test_macs_are_those_counted_by_hand() -> None:
    # 16x16 in; 8x8 after the stride; 4x4 after the dilated 3x3 (5 wide); 8x8 after the transposed.
    report = strzoo.report(_small(), input_size=(3, 16, 16))
    macs = {layer.name: layer.dense_macs for layer in report.layers}
    assert macs == {
        "0": 8 * 8 * 8 * 27,
        "3": 8 * 4 * 4 * 9,
        "4": 8 * 4 * 4 * 4 * 4,
        "6": 4 * 8 * 8 * 5,
    }
    assert report.params == (27 * 8 + 8) + 16 + (8 * 9 + 8) + (8 * 4 * 4 + 4) + (256 * 5 + 5)
    assert report.input_size == (3, 16, 16)
    assert {layer.name: layer.output for layer in report.layers}["3"] == (8, 4, 4)


def test_sparse_macs_follow_the_zeros_layer_by_layer() -> None:
    model = _small()
    with torch.no_grad():
        model[0].weight.view(-1)[:54] = 0  # 54 of 216: a quarter
    report = strzoo.report(model, input_size=(3, 16, 16))
    first = report.layers[0]
    assert (first.nonzeros, first.sparsity) == (162, 25.0)
    assert first.sparse_macs == 8 * 8 * 8 * 27 * 3 // 4
    assert report.sparse_macs == report.dense_macs - 8 * 8 * 8 * 27 // 4
    assert report.sparsity == pytest.approx(100 * 54 / report.weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "vgg11"])
def test_any_network_is_reported_and_every_weight_counted(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, num_classes=10, **options)
    report = strzoo.report(model, input_size=(3, 64, 64))
    expected = sum(
        m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    )
    assert report.weights == expected
    assert report.source == "weights"
    assert model.training  # left as it was


def test_a_model_with_sparse_layers_is_reported_without_being_changed() -> None:
    torch.manual_seed(0)
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), s_init=-2.0)
    report = strzoo.report(model, input_size=(3, 32, 32))
    threshold = 1 / (1 + torch.e**2.0)
    for layer in report.layers:
        assert layer.type == "STRConv2d"
        assert layer.threshold == pytest.approx(threshold, rel=1e-6)
        weight = model.get_submodule(layer.name).weight
        assert layer.nonzeros == int((weight.abs() > threshold).sum())
    assert hasattr(model.conv1, "sparseThreshold")


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    report = strzoo.report(nn.Sequential(layer, nn.ReLU(), layer), input_size=(4,))
    assert [(row.params, row.dense_macs) for row in report.layers] == [(16, 32)]


def test_a_layer_bypassed_by_the_forward_pass_is_noticed() -> None:
    class Bypass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + nn.functional.linear(x, self.layer.weight)

    report = strzoo.report(Bypass(), input_size=(4,))
    assert dict(report.other_macs) == {"linear": 16}  # outside every layer, not lost

    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(super().forward(x))

    report = strzoo.report(nn.Sequential(Twice(4, 4)), input_size=(4,))
    assert report.dense_macs == 32
    assert report.notes == (
        "0, a Twice, computes more than its own product: 32 MACs instead of 16",
    )


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class _Pool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(x, 28)


@pytest.mark.parametrize(
    ("middle", "size", "expected"),
    [
        # 8 x 3 x 9 products for each of the pixels, the pool's inputs, and the linear layer.
        *((pool, 28, 28 * 28 * 216 + 8 * 28 * 28 + 8 * 10)
          for pool in (nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(28), _Mean(), _Pool())),
        (nn.AvgPool2d(2), 28, 28 * 28 * 216 + 8 * 28 * 28 + 8 * 14 * 14 * 10),
        (nn.MaxPool2d(2), 28, 28 * 28 * 216 + 8 * 14 * 14 * 10),
        (nn.Upsample(scale_factor=2), 8, 8 * 8 * 216 + 8 * 16 * 16 * 10),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 8, 8 * 8 * 216 + 8 * 16 * 16 * 10),
        (nn.Conv2d(8, 8, 3, padding="same", groups=4), 8, 8 * 8 * (216 + 8 * 2 * 9 + 8 * 10)),
        (nn.Conv2d(8, 8, 3, padding="valid"), 8, 8 * 8 * 216 + 6 * 6 * (8 * 8 * 9 + 8 * 10)),
    ],
)  # fmt: skip
def test_a_network_costs_the_same_in_torch_and_in_onnx(
    middle: nn.Module, size: int, expected: int, tmp_path: Path
) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), middle, nn.Flatten(), nn.LazyLinear(10)
    ).eval()
    network(torch.zeros(1, 3, size, size))
    assert strzoo.report(network, input_size=size).dense_macs == expected
    made = strzoo.export_onnx(network, tmp_path / "network.onnx", input_size=size)
    assert strzoo.report(made.path).dense_macs == expected


def test_a_network_that_does_not_run_on_the_size_says_so() -> None:
    with pytest.raises(StrzooError, match="does not run on one 1x32x32 input"):
        strzoo.report(strzoo.create_model("resnet20"), input_size=(1, 32, 32))


def test_a_checkpoint_is_reported_from_its_weights(str_file: Path) -> None:
    report = strzoo.report(str_file)
    assert report.source == "weights"
    assert report.sparsity == pytest.approx(75.28, abs=0.01)
    assert all(layer.threshold is not None for layer in report.layers)
    assert report.dense_macs == 568_790_528  # 568,740,352 and the pool's 1,024 x 49
    smaller = strzoo.report(str_file, input_size=(3, 128, 128))
    assert smaller.dense_macs < report.dense_macs
    assert smaller.nonzeros == report.nonzeros


def test_an_id_says_where_its_sparsity_comes_from(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path)
    budget = strzoo.report("resnet50_str_90.23", settings=settings)
    assert budget.source == "budget"
    assert any("weights not in" in note and "strzoo download" in note for note in budget.notes)
    unknown = strzoo.report("mobilenetv1_str_75.28", settings=settings)
    assert unknown.source == "architecture"
    assert any("it comes from the published file" in note for note in unknown.notes)
    assert unknown.sparsity is None
    assert unknown.sparse_macs is None
    assert unknown.dense_macs == 568_790_528
    write_published(tmp_path / "mobilenetv1_str_75.28-str.pth", str_state("mobilenetv1", 75.28))
    cached = strzoo.report("mobilenetv1_str_75.28", settings=settings)
    assert cached.source == "weights"
    assert cached.sparsity == pytest.approx(75.28, abs=0.01)


def test_the_published_misprint_is_flagged() -> None:
    notes = strzoo.report("resnet50_str_81.27").notes
    assert any("4.47M" in note and "4.78M" in note and "misprint" in note for note in notes)
    assert not any("misprint" in note for note in strzoo.report("resnet50_str_90.23").notes)


def test_table_csv_markdown_and_json_show_the_same_numbers(str_file: Path) -> None:
    report = strzoo.report(str_file)
    document = json.loads(json.dumps(report.to_dict()))
    table = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert document["schema"] == 1
    assert len(document["layers"]) == 28
    for row, layer in zip(table, document["layers"], strict=False):
        assert row["layer"] == layer["name"]
        assert int(row["params"]) == layer["params"]
        assert int(row["nonzeros"]) == layer["nonzeros"]
        assert float(row["sparsity"]) == pytest.approx(layer["sparsity"], abs=0.005)
        assert int(row["sparse_macs"]) == layer["sparse_macs"]
    total = table[-1]
    assert total["layer"] == "total"
    assert int(total["sparse_macs"]) == document["totals"]["sparse_macs"]
    assert document["totals"]["sparse_flops"] == 2 * document["totals"]["sparse_macs"]
    markdown = to_markdown(report)
    assert f"{document['totals']['sparse_macs']:,}" in markdown
    assert markdown.count("\n| ") == 28 + 4  # header, rule, pool, total


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_a_small_network_is_counted_at_the_size_it_was_made_for(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"small_stem": True} if name == "resnet18" else {}
    channels = 64 if options else 16
    model = strzoo.create_model(name, num_classes=10, **options)
    path = strzoo.save_checkpoint(model, tmp_path / "r.pth")
    # In memory, from a file, and loaded from the file: always the same network.
    for target in (model, path, strzoo.load(path)):
        made = strzoo.report(target)
        assert made.input_size == (3, 32, 32)
        assert made.layers[0].dense_macs == 32 * 32 * channels * 27
        small = strzoo.report(target, input_size=16)
        assert small.layers[0].dense_macs == 16 * 16 * channels * 27
    other = strzoo.compare([model, path], predictions=False)
    assert not any("different sizes" in note for note in other.notes)


def test_a_network_that_says_nothing_of_its_size_is_counted_at_224_pixels() -> None:
    made = strzoo.report(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)))
    assert made.input_size == (1, 224, 224)
    assert made.layers[0].dense_macs == 222 * 222 * 2 * 9


def test_an_image_that_fits_in_no_memory_is_refused() -> None:
    with pytest.raises(StrzooError, match="no image of size 3x99999999x99999999 fits"):
        strzoo.report(strzoo.create_model("resnet20"), input_size=99999999)
