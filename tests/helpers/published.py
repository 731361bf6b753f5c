"""Make files like the published ones: same keys, same quirks, random weights, a real budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strzoo.models.create import create_model
from strzoo.zoo.budgets import Budget

ARCH = {"resnet18": "ResNet18", "resnet50": "ResNet50", "mobilenetv1": "MobileNetV1"}


def dense_state(architecture: str = "mobilenetv1", seed: int = 0, **options: Any) -> dict:
    """A dense state dict with BatchNorm statistics that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    state = create_model(architecture, **options).state_dict()
    for key, value in state.items():
        if key.endswith(("running_mean", ".bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif key.endswith("running_var") or (value.dim() == 1 and key.endswith(".weight")):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return state


def str_state(
    architecture: str = "mobilenetv1",
    sparsity: float | Budget = 75.28,
    seed: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """An STR state dict whose thresholds cut each layer to the given sparsity (percent).

    The threshold of a layer lies midway between two neighbouring magnitudes, so that exactly
    round(n * sparsity) weights fall below it in any precision.
    """
    state: dict[str, Tensor] = {}
    for key, value in dense_state(architecture, seed, **options).items():
        state[key] = value
        if value.dim() != 4:
            continue
        layer = key.removesuffix(".weight")
        percent = sparsity.layers[layer] if isinstance(sparsity, Budget) else sparsity
        magnitudes = value.abs().flatten().double().numpy()
        cut = min(max(round(magnitudes.size * percent / 100), 1), magnitudes.size - 1)
        magnitudes.partition((cut - 1, cut))
        threshold = (magnitudes[cut - 1] + magnitudes[cut]) / 2
        # Beyond 1 no sigmoid reaches: everything below 1 is cut then.
        s = math.log(threshold / (1 - threshold)) if threshold < 1 else 30.0
        state[f"{layer}.sparseThreshold"] = torch.full((1, 1), s)
    return state


def write_published(
    path: Path,
    state: dict[str, Tensor],
    architecture: str = "mobilenetv1",
    *,
    old_pickle: bool = False,
    prefix: str = "module.",
    optimizer: bool = True,
) -> Path:
    """Save `state` as the original training code did, with numpy scalars as learning rates."""
    document: dict[str, Any] = {
        "epoch": 100,
        "arch": ARCH[architecture],
        "state_dict": {prefix + key: value for key, value in state.items()},
    }
    if optimizer:
        document |= {
            "best_acc1": 74.31,
            "best_acc5": 92.0,
            "best_train_acc1": 70.1,
            "best_train_acc5": 89.2,
            "curr_acc1": "Not evaluated",
            "optimizer": {
                "state": {0: {"momentum_buffer": torch.zeros(10)}},
                "param_groups": [{"lr": np.float64(0.256), "momentum": 0.875, "params": [0]}],
            },
        }
    torch.save(document, path, _use_new_zipfile_serialization=not old_pickle)
    return path
