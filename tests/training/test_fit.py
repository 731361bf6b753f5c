from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.errors import StrzooError, UsageError
from strzoo.training.fit import EpochResult, FitConfig, fit
from strzoo.training.optimisation import parameter_groups


def _network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
    return strzoo.sparsify_(model, s_init=-5.0)


def test_one_step_of_str_is_that_of_the_equations() -> None:
    # Independent: eq. 4, cross-entropy with smoothing, SGD with momentum and decay, in float64.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False))
    strzoo.sparsify_(model, s_init=-2.0)
    model.double()
    weight, s = model[1].weight.detach().clone(), -2.0
    images, labels = torch.randn(8, 3, 2, 2, dtype=torch.double), torch.arange(8) % 4
    config = FitConfig(
        epochs=3, batch_size=8, learning_rate=0.3, weight_decay=0.01, threshold_decay=0.1,
        warmup_epochs=0, label_smoothing=0.1,
    )  # fmt: skip
    velocity, s_velocity = torch.zeros_like(weight), 0.0
    x = images.flatten(1)
    for step in range(3):
        rate = 0.15 * (1 + math.cos(math.pi * step / 3))
        t = 1 / (1 + math.exp(-s))
        kept = (weight.abs() > t).double()
        sparse = weight.sign() * (weight.abs() - t) * kept
        target = torch.full((8, 4), 0.1 / 4, dtype=torch.double)
        target[torch.arange(8), labels] += 0.9
        grad = (torch.softmax(x @ sparse.T, 1) - target).T @ x / 8
        velocity = 0.875 * velocity + (grad * kept + 0.01 * weight)
        s_grad = float(-(grad * weight.sign() * kept).sum() * t * (1 - t))
        s_velocity = 0.875 * s_velocity + (s_grad + 0.1 * s)
        weight, s = weight - rate * velocity, s - rate * s_velocity
    fit(model, ImageSet(images, labels, 4), config)
    torch.testing.assert_close(model[1].weight.detach(), weight, rtol=0, atol=1e-12)
    assert model[1].sparseThreshold.item() == pytest.approx(s, abs=1e-12)


def test_a_seed_gives_the_same_network_and_leaves_the_global_state_alone() -> None:
    data = strzoo.load_digits("test")
    states = []
    for _ in range(2):
        model = _network()
        before = torch.get_rng_state()
        history = fit(model, data, FitConfig(epochs=3, threshold_decay=0.01))
        assert torch.equal(torch.get_rng_state(), before)
        states.append((history, model.state_dict()))
    assert states[0][0] == states[1][0]
    assert all(
        torch.equal(a, b) for a, b in zip(states[0][1].values(), states[1][1].values(), strict=True)
    )


def test_the_decay_of_the_thresholds_drives_the_sparsity() -> None:
    data = strzoo.load_digits("test")
    seen: list[EpochResult] = []
    sparsities = []
    for decay in (0.0, 0.02):
        model = _network()
        config = FitConfig(epochs=12, threshold_decay=decay)
        history = fit(model, data, config, on_epoch=seen.append)
        sparsities.append(history[-1].sparsity)
        assert not model.training
    assert sparsities[1] > sparsities[0] + 20
    assert [result.epoch for result in seen] == [*range(1, 13), *range(1, 13)]


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    config = FitConfig(epochs=10, learning_rate=0.4, warmup_epochs=2)
    rates = [config.schedule.at(e / 10) for e in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert max(rates) == pytest.approx(0.4)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert config.schedule.at(6) == pytest.approx(0.2)  # half way down the cosine
    assert rates[-1] < 0.001


def test_parameters_are_grouped_by_module_type() -> None:
    model = strzoo.sparsify_(strzoo.create_model("mobilenetv1", num_classes=10))
    groups = {g["name"]: g for g in parameter_groups(model, weight_decay=1e-4)}
    named = dict(model.named_parameters())
    ids = {name: {id(p) for p in group["params"]} for name, group in groups.items()}
    assert ids["thresholds"] == {id(p) for n, p in named.items() if n.endswith("sparseThreshold")}
    # In MobileNetV1 no BatchNorm is named bn; its parameters are the one-dimensional ones.
    assert ids["normalisation"] == {id(p) for p in named.values() if p.dim() == 1}
    assert sum(len(group["params"]) for group in groups.values()) == len(named)
    assert {n: g["weight_decay"] for n, g in groups.items()} == {
        "weights": 1e-4, "thresholds": 1e-4, "normalisation": 0.0,
    }  # fmt: skip


def test_a_shared_threshold_is_optimised_once() -> None:
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), threshold="global")
    groups = parameter_groups(model, weight_decay=0, threshold_decay=0.5)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups if g["name"] == "thresholds"] == [
        (1, 0.5)
    ]


def test_what_cannot_train_says_why() -> None:
    data = strzoo.load_digits("test")
    with pytest.raises(UsageError, match="360 images are too few for one batch: batch_size=512"):
        fit(_network(), data, FitConfig(batch_size=512))
    with pytest.raises(UsageError, match="epochs=0 must be positive"):
        FitConfig(epochs=0)
    with pytest.raises(StrzooError, match=r"the loss is not finite .* lower learning_rate"):
        fit(_network(), data, FitConfig(epochs=5, learning_rate=1e6))
