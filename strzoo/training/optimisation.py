"""Which parameters decay how much: grouped by module type, never by name."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    threshold_decay: float | None = None,
    decay_normalisation: bool = False,
) -> list[dict[str, Any]]:
    """Three optimizer groups: weights, STR thresholds, and what does not decay.

    Args:
        weight_decay: of convolution and linear weights, and other parameters of two dimensions
            or more.
        threshold_decay: of STR thresholds; the paper decays them like the weights (None).
        decay_normalisation: decay normalisation parameters, biases and other vectors too.

    Returns:
        Groups with `params`, `weight_decay` and `name` ("weights", "thresholds",
        "normalisation"), empty ones left out; each trainable parameter is in exactly one, a
        shared one (a global threshold) too.
    """
    weights, thresholds, others = [], [], []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            if name == "sparseThreshold":
                thresholds.append(parameter)
            elif isinstance(module, _NORMALISATIONS) or name == "bias" or parameter.dim() < 2:
                others.append(parameter)
            else:
                weights.append(parameter)
    decay = weight_decay if threshold_decay is None else threshold_decay
    groups = [
        {"name": "weights", "params": weights, "weight_decay": weight_decay},
        {"name": "thresholds", "params": thresholds, "weight_decay": decay},
        {
            "name": "normalisation",
            "params": others,
            "weight_decay": weight_decay if decay_normalisation else 0.0,
        },
    ]
    return [group for group in groups if group["params"]]
