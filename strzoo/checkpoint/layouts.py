"""Key layouts of other libraries: torchvision's ResNets, timm's ResNets and MobileNetV1.

Theirs end in a linear classifier with a bias; ours in a bias-free 1x1 convolution. Ours becomes
theirs with the weight squeezed and a zero bias; a zero bias is dropped on the way back. What each
library calls the entries is part of the architecture's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from strzoo.errors import UsageError
from strzoo.models.architecture import ForeignLayout
from strzoo.models.registry import find_architecture, known_architectures
from strzoo.models.spec import ModelSpec

LAYOUTS = ("strzoo", "torchvision", "timm")


def check_layout(
    layout: str, architecture: str, options: Mapping[str, Any] | None = None
) -> ForeignLayout | None:
    """That library's layout of these weights, of a network with these options; None for our own.

    Raises:
        UsageError: the layout is unknown, or has no such architecture.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    if layout == "strzoo":
        return None
    found = find_architecture(architecture).layout(layout, options)
    if found is None:
        able = [name for name, record in known_architectures().items() if record.layout(layout)]
        raise UsageError(
            f"{layout} has no network for {architecture} weights; it has {', '.join(able)}"
        )
    return found


def to_layout(state: Mapping[str, Tensor], layout: str, architecture: str) -> dict[str, Tensor]:
    """A dense state dict in another library's layout.

    Raises:
        UsageError: the layout is unknown or has no such architecture.
    """
    foreign, record = check_layout(layout, architecture), find_architecture(architecture)
    if foreign is None or record.any_options:  # a library's own network has its keys
        return dict(state)
    ours = record.head
    result = {
        foreign.rename(key): value.flatten(1) if key == f"{ours}.weight" else value
        for key, value in state.items()
    }
    if f"{foreign.head}.bias" not in result:
        weight = result[f"{foreign.head}.weight"]
        result[f"{foreign.head}.bias"] = torch.zeros(weight.shape[0], dtype=weight.dtype)
    return result


def from_layout(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ForeignLayout | None]:
    """A state dict with our keys, from ours or another library's, and whose it was, if its keys
    differ from ours. The head is as it was."""
    for record in known_architectures().values():
        for layout in record.layouts:
            if layout.marks and all(mark in state for mark in layout.marks):
                ours = _our_keys(record.name, layout)
                return {ours.get(key, key): value for key, value in state.items()}, layout
    return dict(state), None


def fit_head(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """`state` with a linear classifier as the 1x1 convolution that the network has."""
    weight_key, bias_key = f"{spec.head}.weight", f"{spec.head}.bias"
    weight, wanted = state[weight_key], spec.shapes().get(weight_key, ())
    if weight.dim() != 2 or len(wanted) != 4:
        return dict(state)
    result = {**state, weight_key: weight[:, :, None, None]}
    if bias_key not in spec.shapes():
        result.pop(bias_key, None)
    return result


@lru_cache(maxsize=8)
def _our_keys(architecture: str, layout: ForeignLayout) -> dict[str, str]:
    """Their key -> ours, the bias of the head included."""
    record = known_architectures()[architecture]
    keys = [*ModelSpec(architecture, 1).shapes(), f"{record.head}.bias"]
    return {layout.rename(key): key for key in keys}
