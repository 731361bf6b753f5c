"""create_model: an architecture by name, with any layer type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.models.blocks import ConvLayer
from strzoo.models.registry import find_architecture
from strzoo.sparse.layers import DNWConv2d, GMPConv2d, STRConv2d

LAYERS: dict[str, ConvLayer] = {
    "dense": nn.Conv2d,
    "str": STRConv2d,
    "dnw": DNWConv2d,
    "gmp": GMPConv2d,
}


@checked
def create_model(
    architecture: str,
    *,
    num_classes: int | None = None,
    layer: str | Callable[..., nn.Conv2d] = "dense",
    **options: Any,
) -> nn.Module:
    """A randomly initialised network with the published key layout, in training mode.

    Args:
        architecture: "resnet18", "resnet50", "resnet20" (for CIFAR), "mobilenetv1", or one that
            was registered.
        num_classes: 1000 by default, 10 for resnet20.
        layer: the type of every convolution, the classifier included: "dense", "str", "dnw",
            "gmp", or a callable with the arguments of `nn.Conv2d`.
        options: `small_stem=True` for images of about 32x32; `head_bias=True` for a classifier
            with bias; for mobilenetv1 `width=0.5` multiplies the channels and `relu6=True` clips
            activations at 6.

    Returns:
        The network: images [N, C, H, W] in, logits [N, num_classes] out.

    Raises:
        UnknownNameError: no such architecture.
        UsageError: an unknown layer type or option, or a value out of range.
    """
    record = find_architecture(architecture)
    if isinstance(layer, str):
        if layer not in LAYERS:
            raise UsageError(f"layer {layer!r} is not one of {', '.join(LAYERS)} or a callable")
        layer = LAYERS[layer]
    for option in options:
        if option not in record.options:
            raise UsageError(
                f"{record.name} has no option {option!r}; it has {', '.join(record.options)}"
            )
    if num_classes is None:
        num_classes = record.num_classes
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
    return record.build(num_classes=num_classes, conv=layer, **options)
