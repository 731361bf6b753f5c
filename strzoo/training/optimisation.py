"""Which parameters decay how much: grouped by module type, or by name as published code does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from strzoo.models.architecture import import_library
from strzoo.models.heads import find_head
from strzoo.sparse.filters import ChannelImportance

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
        weight_decay: of convolution and linear weights, other parameters of two dimensions or
            more, and the importance of filters.
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
            elif isinstance(module, ChannelImportance):
                weights.append(parameter)
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


def groups_by_name(
    model: nn.Module,
    *,
    weight_decay: float,
    threshold_decay: float | None = None,
    decay_normalisation: bool = True,
) -> list[dict[str, Any]]:
    """The three optimizer groups of the published code of STR, in its order, empty ones too.

    BatchNorm is told by "bn" in a parameter's name. The BatchNorms of ResNet's shortcuts and of
    all of MobileNetV1 are not called so: they are among the rest, and always decay.

    Args:
        weight_decay: of all that is neither of the others.
        threshold_decay: of STR thresholds; as the weights by default.
        decay_normalisation: decay what is called "bn" too, as all published configurations do.

    Returns:
        Groups with `params`, `weight_decay` and `name` ("bn", "thresholds", "rest"); each
        trainable parameter is in exactly one.
    """
    found: dict[str, list[nn.Parameter]] = {"bn": [], "thresholds": [], "rest": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            threshold = "thresholds" if "sparseThreshold" in name else "rest"
            found["bn" if "bn" in name else threshold].append(parameter)
    decays = {
        "bn": weight_decay if decay_normalisation else 0.0,
        "thresholds": weight_decay if threshold_decay is None else threshold_decay,
        "rest": weight_decay,
    }
    return [
        {"name": name, "params": params, "weight_decay": decays[name]}
        for name, params in found.items()
    ]


def scale_by_depth(
    model: nn.Module, groups: Sequence[dict[str, Any]], decay: float
) -> list[dict[str, Any]]:
    """The groups, each split by how deep its parameters are in the network, as timm tells it.

    Args:
        model: the network that the parameters are of.
        groups: as `parameter_groups` makes them.
        decay: what the learning rate is multiplied by from one layer to the one before.

    Returns:
        Groups with `lr_scale`, the part of the learning rate, 1 for the last layers.

    Raises:
        StrzooError: timm is not installed.
    """
    optim = import_library("timm.optim", purpose="layer_decay")
    scales: dict[int, float] = {}
    # Of a network that is not timm's it has to be told which layer is the classifier.
    known = hasattr(model, "group_matcher") or hasattr(model, "pretrained_cfg")
    if not known:
        vars(model)["pretrained_cfg"] = {"classifier": find_head(model)}
    try:
        found = optim.param_groups_layer_decay(model, layer_decay=decay)
    finally:
        if not known:
            del vars(model)["pretrained_cfg"]
    for group in found:
        scales.update((id(parameter), group["lr_scale"]) for parameter in group["params"])
    split = []
    for group in groups:
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        split += [
            {**group, "params": parameters, "lr_scale": scale}
            for scale, parameters in sorted(by_scale.items())
        ]
    return split
