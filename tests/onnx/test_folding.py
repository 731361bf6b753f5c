"""BatchNorm is folded only where the network computes the same without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import strzoo
from strzoo.errors import VerificationError
from strzoo.onnx.folding import fold_norms


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.running_mean, norm.bias.data):
        assert tensor is not None
        tensor.normal_()
    for tensor in (norm.running_var, norm.weight.data):
        assert tensor is not None
        tensor.uniform_(0.5, 3)
    return norm


class Network(nn.Module):
    """A convolution, two BatchNorms, and what a test makes of them."""

    def __init__(self, way: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.other = _norm(3), _norm(3)
        self.way = way

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            images = images * mask
        return self.way(self, images).mean((2, 3))


def _straight(net: Network, x: Tensor) -> Tensor:
    return net.norm(net.conv(x))


def _only_tensors(net: Network, x: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        x = 3 * x - 1
    return net.norm(net.conv(x))


WAYS: dict[str, tuple[Callable[[Network, Tensor], Tensor], int]] = {
    "straight": (_straight, 1),
    "in place": (lambda net, x: net.norm(net.conv(x)).relu_(), 1),
    "for tensors": (_only_tensors, 1),
    "both twice": (lambda net, x: net.norm(net.conv(net.norm(net.conv(x)))), 0),
    "a norm for each call": (lambda net, x: net.other(net.conv(net.norm(net.conv(x)))), 0),
    "once without": (lambda net, x: net.conv(net.norm(net.conv(x)).relu()), 0),
    "weight read elsewhere": (
        lambda net, x: net.norm(net.conv(x)) + nn.functional.conv2d(x, net.conv.weight, padding=1),
        0,
    ),
    "between": (lambda net, x: net.norm(y := net.conv(x)) + y, 0),
    "between, in place": (lambda net, x: net.norm(net.conv(x).mul_(2)), 0),
    "norm's weight": (lambda net, x: net.norm(net.conv(x)) * net.norm.weight.mean(), 0),
    # An Identity has no epsilon: the exporter gets the network as it is.
    "norm's epsilon": (lambda net, x: net.norm(net.conv(x)) * (1 + net.norm.eps), 1),
}


def _hooked(place: str) -> nn.Module:
    torch.manual_seed(0)
    network = Network(_straight).eval()
    module = network.get_submodule(place)
    module.register_forward_pre_hook(lambda module, given: (given[0] / 255,))
    module.register_forward_hook(lambda module, given, result: 2 * result + 1)
    return network


def _check_folded(network: nn.Module, folded: int, *, runs: bool = True) -> None:
    images = torch.randn(3, 3, 12, 12)
    made, found = fold_norms(network, torch.zeros(2, 3, 12, 12))
    assert found == folded
    if runs:
        with torch.no_grad():
            torch.testing.assert_close(made(images), network(images), rtol=1e-5, atol=1e-5)


def _agree(network: nn.Module) -> None:
    images = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        expected = network.eval()(images)
    found = torch.from_numpy(strzoo.compile(network, size=12)(images.numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_folding_changes_nothing_however_layers_are_used(name: str) -> None:
    torch.manual_seed(0)
    way, folded = WAYS[name]
    _check_folded(Network(way).eval(), folded, runs=name != "norm's epsilon")


@pytest.mark.parametrize("place", ["", "conv", "norm"])
def test_hooks_are_kept(place: str) -> None:
    _check_folded(_hooked(place), int(place == ""))


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_a_network_is_compiled_as_it_computes(name: str) -> None:
    torch.manual_seed(0)
    _agree(Network(WAYS[name][0]))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "conv", "norm"])
def test_a_network_with_hooks_is_compiled_as_it_computes(place: str) -> None:
    _agree(_hooked(place))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv1"])
def test_all_norms_behind_convolutions_are_folded(name: str) -> None:
    network = strzoo.create_model(name, num_classes=10).eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.load_state_dict(_norm(norm.num_features).state_dict())
    made, folded = fold_norms(network, torch.zeros(2, 3, 32, 32))
    assert folded == len(norms)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.modules())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network.double()(images)
        difference = (made.double()(images) - expected).abs().max()
    assert difference < 1e-5 * expected.abs().max()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == len(norms)


@pytest.mark.slow
def test_a_form_that_computes_something_else_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fold_wrongly(network: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
        made, _ = fold_norms(network, example)
        made.get_parameter("conv.bias").data += 0.1
        return made, 0

    network = Network(_straight).eval()
    monkeypatch.setattr("strzoo.onnx.graphs.fold_norms", fold_wrongly)
    with pytest.raises(VerificationError, match="other results than torch"):
        strzoo.compile(network, size=12)
    # Of a network that draws random numbers nothing can be told.
    random = Network(lambda net, x: net.norm(net.conv(x)) + torch.rand(len(x), 1, 1, 1))
    assert strzoo.compile(random.eval(), size=12)(np.zeros((1, 3, 12, 12))).shape == (1, 3)
