"""Key layouts of other libraries: torchvision's ResNets, timm's ResNets and MobileNetV1.

Theirs end in a linear classifier with a bias; ours in a bias-free 1x1 convolution. Ours becomes
theirs with the weight squeezed and a zero bias; a zero bias is dropped on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from strzoo.errors import UsageError

LAYOUTS = ("strzoo", "torchvision", "timm")
_TIMM_STAGES = (1, 2, 2, 6, 2)  # blocks per stage of timm's MobileNetV1
_TIMM_PARTS = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}

# How to create the network that takes the converted weights.
CREATION = {
    ("torchvision", "resnet18"): "torchvision.models.resnet18()",
    ("torchvision", "resnet50"): "torchvision.models.resnet50()",
    ("timm", "resnet18"): "timm.create_model('resnet18')",
    ("timm", "resnet50"): "timm.create_model('resnet50')",
    # timm's MobileNetV1 uses ReLU6; the published weights were trained with ReLU.
    ("timm", "mobilenetv1"): "timm.create_model('mobilenetv1_100', act_layer='relu')",
}


def check_layout(layout: str, architecture: str) -> None:
    """Raise a UsageError unless that library has a network these weights fit."""
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    if layout != "strzoo" and (layout, architecture) not in CREATION:
        able = [arch for known, arch in CREATION if known == layout]
        raise UsageError(
            f"{layout} has no network for {architecture} weights; it has {', '.join(able)}"
        )


def to_layout(state: Mapping[str, Tensor], layout: str, architecture: str) -> dict[str, Tensor]:
    """A dense state dict in another library's layout.

    Raises:
        UsageError: the layout is unknown or has no such architecture.
    """
    check_layout(layout, architecture)
    if layout == "strzoo":
        return dict(state)
    result = {}
    for key, value in state.items():
        name = _timm_mobilenet_key(key) if architecture == "mobilenetv1" else key
        result[name] = value.flatten(1) if key == "fc.weight" else value
    head = "classifier" if architecture == "mobilenetv1" else "fc"
    if f"{head}.bias" not in result:
        weight = result[f"{head}.weight"]
        result[f"{head}.bias"] = torch.zeros(weight.shape[0], dtype=weight.dtype)
    return result


def from_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in our layout, from ours, torchvision's or timm's."""
    if "conv_stem.weight" in state and "classifier.weight" in state:
        state = {_OURS.get(key, key): value for key, value in state.items()}
    weight = state.get("fc.weight")
    if weight is None or weight.dim() != 2:
        return dict(state)
    result = {key: value for key, value in state.items() if key != "fc.bias"}
    result["fc.weight"] = weight[:, :, None, None]
    bias = state.get("fc.bias")
    if bias is not None and bool(bias.any()):
        result["fc.bias"] = bias
    return result


def _timm_mobilenet_key(key: str) -> str:
    top, _, rest = key.partition(".")
    if top == "fc":
        return f"classifier.{rest}"
    index, part, leaf = rest.split(".")
    if index == "0":
        return f"{'conv_stem' if part == '0' else 'bn1'}.{leaf}"
    block = int(index) - 1
    stage = 0
    while block >= _TIMM_STAGES[stage]:
        block -= _TIMM_STAGES[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{_TIMM_PARTS[part]}.{leaf}"


def _our_mobilenet_keys() -> dict[str, str]:
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ours = [f"model.0.{part}.{leaf}" for part in "01" for leaf in leaves]
    ours += [f"model.{i}.{part}.{leaf}" for i in range(1, 14) for part in "0134" for leaf in leaves]
    ours += ["fc.weight", "fc.bias"]
    return {_timm_mobilenet_key(key): key for key in ours}


_OURS = _our_mobilenet_keys()
