"""Pruned networks whose activations stay in range, as torch modules and as ONNX models.

Weights are random, cut by magnitude: to a published budget, or uniformly. The benchmark of the
engine uses them too.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import torch
import torchvision
from torch import Tensor, nn

import strzoo
from strzoo.onnx.graphs import Deployed, build_graph

OURS = ("resnet18", "resnet20", "resnet50", "mobilenetv1")
CLASSES = 20  # of the networks of tests, to keep them small


def make_network(
    architecture: str,
    rates: Mapping[str, float] | float | None = None,
    *,
    size: int = 224,
    classes: int = 1000,
    seed: int = 0,
) -> nn.Module:
    """A network in evaluation mode.

    Args:
        architecture: one of `OURS`, torchvision's mobilenet_v2, vgg16 or googlenet, or "small":
            six layers, a fifth of the time that ResNet20 takes to compile.
        rates: fraction of zeros in each layer by name, or in each layer but the first and
            depthwise ones.
        size: pixels a side of the images that calibrate BatchNorm.
    """
    torch.manual_seed(seed)
    network = _create(architecture, size, classes)
    if rates is not None and not isinstance(rates, Mapping):
        rates = dict.fromkeys(_prunable(network), rates)
    prune(network, rates or {})
    calibrate(network, torch.randn(8, 3, size, size))
    return network.eval()


def budget_rates(name: str) -> dict[str, float]:
    """The published budget `name`, as fractions by layer."""
    return strzoo.load_budget(name).prune_rates()


def prune(network: nn.Module, rates: Mapping[str, float]) -> None:
    """Cut that fraction of the smallest weights of each layer."""
    for name, rate in rates.items():
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        values = weight.detach().numpy().reshape(-1)
        count = round(rate * len(values))
        if count:
            values[np.argpartition(np.abs(values), count - 1)[:count]] = 0


def calibrate(network: nn.Module, images: Tensor) -> None:
    """Set the statistics of every BatchNorm to those of `images`, and scales near one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    network.train()
    with torch.no_grad():
        network(images)
    network.eval()


def export(network: nn.Module, size: int, *, older: bool = False) -> onnx.ModelProto:
    """`network` as strzoo exports it, or by torch's older exporter, which is faster."""
    if not older:
        deployed = Deployed(network, softmax=False, preprocessing=None).eval()
        return build_graph(deployed, (3, size, size))
    content: Any = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.randn(2, 3, size, size),),
            content,
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
            opset_version=13,
        )
    return onnx.load_model_from_string(content.getvalue())


@lru_cache(maxsize=32)
def load_model(architecture: str, size: int, rate: float = 0.9) -> onnx.ModelProto:
    """A pruned network of `CLASSES` classes as ONNX; made once (do not modify)."""
    network = make_network(architecture, rate, size=size, classes=CLASSES)
    return export(network, size, older=architecture != "resnet20")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected output."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _create(architecture: str, size: int, classes: int) -> nn.Module:
    if architecture in OURS:
        return strzoo.create_model(architecture, num_classes=classes)
    if architecture == "small":
        return _Small(classes)
    if architecture.startswith("timm:"):
        import timm

        created: nn.Module = timm.create_model(architecture[5:], num_classes=classes)
        return created
    if architecture == "mobilenet_v2":
        return torchvision.models.mobilenet_v2(num_classes=classes)
    if architecture == "googlenet":
        return torchvision.models.googlenet(
            num_classes=classes, aux_logits=False, transform_input=True, init_weights=False
        )
    assert architecture == "vgg16"
    return _create_vgg16(size, classes)


class _Small(nn.Module):
    """A stem, a residual block, two wider layers and a classifier: 84,000 weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = self._layer(3, 16, 3)
        self.first, self.second = self._layer(16, 16, 3), self._layer(16, 16, 3)
        self.wide, self.deep = self._layer(16, 64, 1), self._layer(64, 128, 3)
        self.fc = nn.Linear(128, classes)

    @staticmethod
    def _layer(inputs: int, outputs: int, side: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.deep(self.wide(x + self.second(self.first(x))))
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


def _create_vgg16(size: int, classes: int) -> nn.Module:
    """torchvision's, with a head for `size`: its pool to 7x7 pixels does nothing at 224, and below
    it cannot be exported. A head for few classes is small."""
    with torch.device("meta"):
        network = torchvision.models.vgg16(init_weights=False)
    network.features.to_empty(device="cpu")
    for module in network.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.01)  # type: ignore[arg-type]
    if size < 224:
        network.avgpool = nn.Identity()
    hidden = 4096 if classes == 1000 else 64
    head = network.classifier
    head[0] = nn.Linear(512 * (size // 32) ** 2, hidden)
    head[3], head[6] = nn.Linear(hidden, hidden), nn.Linear(hidden, classes)
    return network


def _prunable(network: nn.Module) -> list[str]:
    """All convolutions and linear layers but the first and the depthwise ones."""
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    return layers[1:]
