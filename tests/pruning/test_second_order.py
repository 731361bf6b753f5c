"""The mathematics of one-shot pruning against independent formulations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strzoo.pruning.batchnorm import renew_statistics
from strzoo.pruning.second_order import Rows, compensate, prune_second_order
from strzoo.pruning.statistics import LayerStatistics, as_rows, collect_statistics


def test_what_stays_is_the_least_squares_solution_for_the_outputs() -> None:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((2, 200, 9)) @ random.standard_normal((2, 9, 9))
    weight = random.standard_normal((2, 4, 9))
    kept = random.random((2, 4, 9)) < 0.5
    row = Rows(torch.tensor(weight), torch.tensor(weight), torch.tensor(kept))
    compensate(row, torch.tensor(inputs.transpose(0, 2, 1) @ inputs / 200), steps=9)
    for group, one in itertools.product(range(2), range(4)):
        mask = kept[group, one]
        wanted = inputs[group] @ weight[group, one]
        solution = np.linalg.lstsq(inputs[group][:, mask], wanted, rcond=None)[0]
        found = row.weight[group, one].numpy()
        assert found[mask] == pytest.approx(solution, rel=1e-4, abs=1e-6)
        assert not found[~mask].any()


def test_the_weight_that_goes_is_the_one_whose_loss_the_others_make_up_for_best() -> None:
    # Two inputs are nearly the same: one of their weights goes, though two others are smaller.
    torch.manual_seed(0)
    inputs = torch.randn(500, 4)
    inputs[:, 1] = inputs[:, 0] + 0.05 * torch.randn(500)
    gram = (inputs.T @ inputs / 500)[None]
    row = Rows.of(torch.tensor([[[1.0, 0.9, 0.5, 0.4]]]))
    prune_second_order({"a": row}, {"a": LayerStatistics(gram, torch.ones(1, 1), 500)}, 1)
    assert (~row.kept[0, 0]).nonzero().item() in (0, 1)
    assert row.weight.max() == pytest.approx(1.9, abs=0.1)  # the other took its part
    # Where the loss hardly depends on an output, its weights go first.
    row = Rows.of(torch.tensor([[[2.0, 0.9, 0.5, 0.4], [1.0, 1.0, 1.0, 1.0]]]))
    curvature = torch.tensor([[1.0, 1e-6]])
    prune_second_order({"a": row}, {"a": LayerStatistics(torch.eye(4)[None], curvature, 500)}, 4)
    assert row.kept[0].tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular", groups=4),
        nn.Linear(5, 3),
    ],
    ids=["grouped", "depthwise", "linear"],
)
def test_the_second_moments_give_the_mean_square_of_each_output(layer: Any) -> None:
    # E[(w x)^2] = w A w^T, whatever the order of the inputs in a patch.
    torch.manual_seed(0)
    layer.bias = None
    images = torch.randn(6, 4, 9, 8) if isinstance(layer, nn.Conv2d) else torch.randn(6, 7, 5)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu_().flatten(2).mean(2)  # in place, as torchvision has it

    found = collect_statistics(Network(), {"layer": layer}, images.split(2))["layer"]
    rows = as_rows(layer, layer.weight.detach())
    squares = ((rows @ found.gram) * rows).sum(2).flatten()
    output = layer(images).detach()
    if isinstance(layer, nn.Linear):
        output = output.transpose(1, 2)
    expected = output.transpose(0, 1).flatten(1).square().mean(1)
    assert squares.numpy() == pytest.approx(expected.numpy(), rel=1e-4)


def test_the_curvature_is_that_of_the_networks_own_answers() -> None:
    # For logits the Gauss-Newton matrix of the cross-entropy has p (1 - p) on its diagonal.
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    images = torch.randn(20_000, 3)
    found = collect_statistics(nn.Sequential(layer), {"0": layer}, images.split(5000))["0"]
    chances = layer(images).softmax(1).detach()
    expected = (chances * (1 - chances)).mean(0)
    assert found.curvature[0].numpy() == pytest.approx(expected.numpy(), rel=0.03)


def test_batchnorm_statistics_are_those_of_the_images_again() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).eval()
    images = 3 * torch.randn(40, 3, 5, 5) + 1
    assert renew_statistics(network, images.split(20)) == 1
    normalisation: Any = network[1]
    seen = network[0](images).detach()
    assert torch.allclose(normalisation.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(normalisation.running_var, seen.var((0, 2, 3)), rtol=0.05)
    assert not network.training
    assert not normalisation.training
    assert normalisation.momentum == 0.1
