"""create_model: an architecture by name, with any layer type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from strzoo.errors import UsageError
from strzoo.models.blocks import ConvLayer
from strzoo.models.mobilenetv1 import MobileNetV1
from strzoo.models.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet
from strzoo.sparse.layers import DNWConv2d, GMPConv2d, STRConv2d
from strzoo.zoo.names import resolve_name

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet20": partial(CifarResNet, 3),
    "mobilenetv1": MobileNetV1,
}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "resnet18": ("small_stem", "head_bias"),
    "resnet50": ("small_stem", "head_bias"),
    "resnet20": ("head_bias",),
    "mobilenetv1": ("small_stem", "head_bias", "width"),
}
_DEFAULT_CLASSES = {"resnet20": 10}
LAYERS: dict[str, ConvLayer] = {
    "dense": nn.Conv2d,
    "str": STRConv2d,
    "dnw": DNWConv2d,
    "gmp": GMPConv2d,
}


def list_architectures() -> list[str]:
    """Names that `create_model` accepts."""
    return list(_BUILDERS)


def create_model(
    architecture: str,
    *,
    num_classes: int | None = None,
    layer: str | ConvLayer = "dense",
    **options: Any,
) -> nn.Module:
    """A randomly initialised network with the published key layout, in training mode.

    Args:
        architecture: "resnet18", "resnet50", "resnet20" (for CIFAR) or "mobilenetv1".
        num_classes: 1000 by default, 10 for resnet20.
        layer: the type of every convolution, the classifier included: "dense", "str", "dnw",
            "gmp", or a callable with the arguments of `nn.Conv2d`.
        options: `small_stem=True` for images of about 32x32; `head_bias=True` for a classifier
            with bias; for mobilenetv1 `width=0.5` multiplies the channels.

    Raises:
        UsageError: an unknown architecture, layer type or option, or a value out of range.
    """
    name = resolve_name(architecture, _BUILDERS, kind="architecture")
    if isinstance(layer, str):
        if layer not in LAYERS:
            raise UsageError(f"layer {layer!r} is not one of {', '.join(LAYERS)} or a callable")
        layer = LAYERS[layer]
    for option in options:
        if option not in _OPTIONS[name]:
            raise UsageError(f"{name} has no option {option!r}; it has {', '.join(_OPTIONS[name])}")
    if num_classes is None:
        num_classes = _DEFAULT_CLASSES.get(name, 1000)
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
    if options.get("width", 1) <= 0:
        raise UsageError(f"width is {options['width']}; it must be positive")
    return _BUILDERS[name](num_classes=num_classes, conv=layer, **options)
