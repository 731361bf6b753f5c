from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import UsageError
from strzoo.training.initialisation import Initialisation, initialise_


def test_every_convolution_of_mobilenet_gets_the_configured_start() -> None:
    model = strzoo.sparsify_(strzoo.create_model("mobilenetv1", width=0.25), s_init=-3.0)
    initialise_(model, Initialisation("signed_constant"))
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 28
    for layer in layers:
        fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        torch.testing.assert_close(
            layer.weight.abs(), torch.full_like(layer.weight, math.sqrt(2 / fan_in))
        )
        if layer.weight.numel() > 100:
            assert 0.2 < float((layer.weight > 0).float().mean()) < 0.8
        assert layer.sparseThreshold.item() == -3.0


def test_the_deviation_is_gain_by_the_root_of_the_scaled_fan() -> None:
    layer = nn.Linear(400, 900)
    initialise_(layer, Initialisation("unsigned_constant", "fan_out", "linear", density=0.25))
    expected = 1 / math.sqrt(900 * 0.25)
    torch.testing.assert_close(layer.weight, torch.full_like(layer.weight, expected))
    assert not layer.bias.any()
    initialise_(layer, generator=torch.Generator().manual_seed(0))
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.01)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.001)


def test_a_generator_makes_it_repeatable_and_the_normal_is_torchs() -> None:
    first, second = nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 8, 3, groups=2)
    torch.manual_seed(5)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    initialise_(second, Initialisation(mode="fan_out"), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(second.weight, first.weight)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(UsageError, match="'xavier' is not one of kaiming_normal"):
        Initialisation("xavier")
    with pytest.raises(UsageError, match="mode 'fan' is not one of fan_in, fan_out"):
        Initialisation(mode="fan")
    with pytest.raises(UsageError, match="density is 0"):
        Initialisation(density=0)
    with pytest.raises(UsageError, match="'swish' has no known gain"):
        Initialisation(nonlinearity="swish")


def test_the_default_is_what_torch_gives_a_new_layer_and_some_layers_can_be_chosen() -> None:
    torch.manual_seed(5)
    expected = nn.Linear(7, 3), nn.Conv2d(4, 8, 3, groups=2)
    third = nn.Linear(2, 2)
    before = third.weight.clone()
    model = nn.Sequential(nn.Linear(7, 3), nn.Conv2d(4, 8, 3, groups=2), third)
    torch.manual_seed(5)
    initialise_(model, Initialisation("default"), layers=("0", "1"))
    for layer, other in zip(model, expected, strict=False):
        torch.testing.assert_close(layer.weight, other.weight)
        torch.testing.assert_close(layer.bias, other.bias)
    assert torch.equal(third.weight, before)
