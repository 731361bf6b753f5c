"""Whole networks, ours and torchvision's: read, simplified, and the same as in onnxruntime."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.describe import describe
from strzoo.engine.ir.graph import Convolution, Graph
from strzoo.engine.passes import simplify
from strzoo.errors import UsageError
from strzoo.onnx.graphs import Deployed, build_graph
from strzoo.onnx.precision import convert_precision
from strzoo.zoo.registry import Preprocessing
from tests.helpers.engine.models import assert_agrees
from tests.helpers.engine.networks import calibrate, export, load_model, make_network

STEPS = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HEAD = {"GlobalAveragePool": 1, "Linear": 1}


def kinds(graph: Graph) -> Counter[str]:
    return Counter(type(layer).__name__ for layer in graph.layers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size", "residuals", "expected"),
    [
        # Convolutions but for the classifier; a pool at the start but for CIFAR and MobileNets.
        ("resnet18", 64, 8, {"Convolution": 20, "MaxPool": 1, **HEAD}),
        ("resnet20", 32, 9, {"Convolution": 21, **HEAD}),
        ("resnet50", 64, 16, {"Convolution": 53, "MaxPool": 1, **HEAD}),
        ("mobilenetv1", 64, 0, {"Convolution": 27, **HEAD}),
        ("mobilenet_v2", 64, 10, {"Convolution": 52, **HEAD}),
        ("vgg16", 64, 0, {"Convolution": 13, "MaxPool": 5, "Flatten": 1, "Linear": 3}),
        # 57 convolutions, and the input transform, of whose three channels one is made.
        ("googlenet", 64, 0, {"Convolution": 58, "MaxPool": 13, "Concat": 9, **HEAD}),
    ],
)
def test_networks_become_fused_convolutions_pools_and_linear_layers(
    architecture: str, size: int, residuals: int, expected: dict[str, int]
) -> None:
    model = load_model(architecture, size)
    graph = simplify(read_graph(model))
    assert kinds(graph) == expected
    fused = [layer for layer in graph.layers if isinstance(layer, Convolution)]
    assert sum(len(layer.inputs) == 2 for layer in fused) == residuals
    # Deep networks add up what onnxruntime and the folding of BatchNorm round in fp32.
    assert_agrees(model, batch=2, tolerance=1e-4)


@pytest.mark.slow
def test_an_export_in_halves_with_a_softmax_is_read_in_fp32() -> None:
    network = make_network("resnet20", size=16, classes=5)
    deployed = Deployed(network, softmax=True, preprocessing=None).eval()
    halves = convert_precision(build_graph(deployed, (3, 16, 16)), "fp16", torch.zeros(1))
    graph = simplify(read_graph(halves))
    assert kinds(graph) == {"Convolution": 21, "Softmax": 1, **HEAD}
    assert graph.layers[0].weight.dtype == "float32"  # type: ignore[attr-defined]
    assert_agrees(halves, tolerance=5e-3)


def test_int8_activations_are_refused_by_their_operators() -> None:
    int8 = convert_precision(load_model("resnet20", 32), "int8", torch.randn(4, 3, 32, 32))
    with pytest.raises(UsageError, match=r"cannot run QuantizeLinear at .*; DequantizeLinear at"):
        read_graph(int8)


@pytest.mark.slow
def test_built_in_preprocessing_is_refused_with_what_to_do() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    deployed = Deployed(network, softmax=False, preprocessing=STEPS).eval()
    with pytest.raises(UsageError, match="export it without built-in preprocessing"):
        read_graph(build_graph(deployed, (3, 8, 8)))


class Varied(nn.Module):
    """What exporters write in their own ways: sizes asked for, slices, functions, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.alone = nn.BatchNorm2d(8)
        self.head = nn.Linear(16, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        red = torch.unsqueeze(x[:, 0], 1) * 0.5 + 0.1
        x = torch.cat((red, x[:, 1].unsqueeze(1), torch.unsqueeze(x[:, 2], 1) / 2), 1)
        x = functional.relu6(self.norm(self.first(x)))
        y = functional.hardtanh(self.second(x), -0.5, 0.75)
        y = self.alone(y) + functional.max_pool2d(x, 3, 2, 1)
        y = functional.avg_pool2d(y, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        pooled = torch.cat((functional.adaptive_avg_pool2d(y, 1), y.mean((2, 3), True)), 1)
        features = functional.dropout(pooled.view(pooled.size(0), -1), training=self.training)
        return functional.softmax(self.head(features), dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True], ids=["exporter", "older exporter"])
def test_the_forms_of_both_exporters_are_read(older: bool) -> None:
    torch.manual_seed(0)
    network = Varied()
    calibrate(network, torch.randn(8, 3, 15, 15))
    assert_agrees(export(network, 15, older=older))


def test_a_description_has_a_line_for_each_layer_with_its_weights_and_macs() -> None:
    graph = simplify(read_graph(load_model("resnet20", 32)))
    lines = describe(graph).splitlines()
    assert len(lines) == 1 + len(graph.layers)
    assert lines[0] == "images: 3x32x32"
    # 3 x 16 x 3 x 3 weights, none of them zero, at 32 x 32 pixels; then 16 x 16 x 9 of which
    # round(0.9 x 2304) = 2074 are zero.
    assert "conv1: Convolution of images -> 16x32x32, 432 weights" in lines[1]
    assert "442368 MACs, in [0, inf]" in lines[1]
    assert "230 weights (90.02 % zeros), 235520 MACs" in lines[2]
