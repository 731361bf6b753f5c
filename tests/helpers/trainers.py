"""Trainers of a small network on images in memory, as `strzoo.fit` and `strzoo.train` use them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

import strzoo
from strzoo.training.builders import Network
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import DataSets
from strzoo.training.loaders import MemoryLoader
from strzoo.training.loop import Trainer
from strzoo.training.pruning import PruneRates, apply_rates, resolve_rates

METHODS = ("dense", "str", "dnw", "gmp")
BATCH, SIDE, CLASSES = 16, 8, 10


def small_network(method: str, *, dtype: torch.dtype = torch.float32, norm: bool = True) -> Network:
    """Two convolutions and a classifier, about half of whose weights the method makes zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * SIDE**2 // 4, CLASSES),
    )
    rates: PruneRates | None = None
    if method == "str":
        strzoo.sparsify_(model, s_init=-3.5)  # sigmoid: 0.03
    elif method != "dense":
        strzoo.sparsify_(model, method)
        rates = resolve_rates(model, 0.6)
        if method == "dnw":
            apply_rates(model, rates)
    return Network(model.to(dtype), rates)


def batches(count: int, *, batch: int = BATCH) -> list[tuple[Tensor, Tensor]]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(batch, 3, SIDE, SIDE, generator=generator),
            torch.randint(0, CLASSES, (batch,), generator=generator),
        )
        for _ in range(count)
    ]


def make_trainer(network: Network, device: torch.device, method: str, **options: Any) -> Trainer:
    """A trainer whose `take_step` can be called with batches of `BATCH` images, many times over."""
    config = dataclasses.replace(
        TrainConfig(augmentation="none", channels_last=False),
        method="str" if method == "dense" else method,
        **{
            "batch_size": BATCH, "epochs": 4, "learning_rate": 0.1, "warmup_epochs": 0.0,
            "weight_decay": 1e-3, "precision": "fp32", "prune_rate": None if method in ("dense",
            "str") else 0.6, "prune_start": 0, "prune_end": 1, **options,
        },
    )  # fmt: skip
    network.model.to(device)
    first = next(network.model.parameters())
    images = torch.zeros(10 * BATCH, 3, SIDE, SIDE, dtype=first.dtype)
    loader = MemoryLoader(images, torch.zeros(len(images), dtype=torch.long), config, device)
    data = DataSets(loader, None, "random images", (3, SIDE, SIDE))
    trainer = Trainer(config, network, data, device=device)
    network.train()
    return trainer
