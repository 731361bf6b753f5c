"""Fully connected layers in 16 bits: nonzero weights spread by masks, beside float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("llvmlite")

import strzoo
from strzoo.engine.codegen.masked_linear import MASKED_LANES
from strzoo.engine.hardware import host_hardware


@pytest.mark.skipif(not host_hardware().fixed, reason="no int16 here")
@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_weights_are_spread_by_masks(density: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 128, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 37)
    ).eval()
    weight = network[4].weight.detach()
    weight[torch.rand_like(weight) >= density] = 0
    weight[:3] = 0  # rows with none, with the first alone and with the last alone
    weight[1, 0], weight[2, -1] = 0.5, -0.25
    random = np.random.default_rng(0)
    x, images = (random.standard_normal((n, 3, 8, 8)).astype(np.float32) for n in (5, 9))
    model = strzoo.compile(
        network, 1, size=8, precision="int16", calibration=images, cache=False, tolerance=0.1
    )
    (layer,) = [each for each in model.report.layers if each.kind == "linear"]
    if host_hardware().lanes in MASKED_LANES:
        assert layer.form == "masked, int16"
    expected = network.double()(torch.from_numpy(x).double()).detach().numpy()
    # A weight is rounded to 2^-16 of the largest of its row; the pixels before it to int16.
    assert np.abs(model(x) - expected).max() < 3e-4 * np.abs(expected).max()
