"""What sparsify_ says of layers that it leaves dense."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import strzoo


def test_layers_without_a_sparse_form_are_named(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, dtype=torch.complex64),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "strzoo"):
        strzoo.sparsify_(network, "gmp", prune_rate=0.5)
    assert "1, 2 (ConvTranspose2d) are left dense: only Conv2d and Linear" in caplog.text
    assert "3 (Conv2d) is left dense: its weights are complex numbers" in caplog.text
    assert type(network[0]).__name__ == "GMPConv2d"
