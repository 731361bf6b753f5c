"""create_model: an architecture by name, with any layer type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.models.architecture import Architecture
from strzoo.models.blocks import ConvLayer
from strzoo.models.external import create_pretrained
from strzoo.models.heads import SOURCE, count_outputs, find_head
from strzoo.models.registry import find_architecture
from strzoo.sparse.layers import DNWConv2d, GMPConv2d, STRConv2d
from strzoo.sparse.selection import prunable_layers
from strzoo.sparse.sparsify import sparsify_

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
        architecture: "resnet18", "resnet50", "resnet20" (for CIFAR), "mobilenetv1", one that was
            registered, or a network from elsewhere: "timm:NAME", "torchvision:NAME" or
            "package.module:function", which is imported and called.
        num_classes: 1000 by default, 10 for resnet20, and for a network from elsewhere its own. A
            function gets it if it takes it.
        layer: the type of every convolution, the classifier included: "dense", "str", "dnw",
            "gmp", or a callable with the arguments of `nn.Conv2d`.
        options: `small_stem=True` for images of about 32x32; `head_bias=True` for a classifier
            with bias; for mobilenetv1 `width=0.5` multiplies the channels and `relu6=True` clips
            activations at 6. A network from elsewhere gets them as they are, if they are plain
            values: checkpoints keep them, and build it again by them.

    Returns:
        The network: images [N, C, H, W] in, logits [N, num_classes] out.

    Raises:
        UnknownNameError: no such architecture.
        UsageError: an unknown layer type or option, or a value out of range.
        StrzooError: the library or the code cannot be imported.
    """
    record = find_architecture(architecture)
    if isinstance(layer, str) and layer not in LAYERS:
        raise UsageError(f"layer {layer!r} is not one of {', '.join(LAYERS)} or a callable")
    if record.any_options:
        return _create_external(record, num_classes, layer, options)
    if isinstance(layer, str):
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


def _create_external(
    record: Architecture,
    num_classes: int | None,
    layer: str | ConvLayer,
    options: dict[str, Any],
) -> nn.Module:
    """A network from elsewhere, which remembers how it was built."""
    if not isinstance(layer, str):
        raise UsageError(f"{record.name} takes layer by name: {', '.join(LAYERS)}")
    if num_classes is not None and num_classes < 0:
        raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
    model = record.build(num_classes=num_classes or record.num_classes, **options)
    remember_source_(model, record.name, num_classes, options)
    return model if layer == "dense" else sparsify_(model, layer)


def create_with_weights(
    architecture: str, num_classes: int, options: dict[str, Any], *, offline: bool = False
) -> nn.Module:
    """A network from elsewhere with the pretrained weights that its source offers, as
    `create_model` makes it. Arguments and errors as `create_pretrained`."""
    model = create_pretrained(architecture, num_classes, options, offline=offline)
    remember_source_(model, architecture, num_classes, options)
    return model


def remember_source_(
    model: nn.Module, name: str, num_classes: int | None, options: dict[str, Any]
) -> None:
    """Note on a network from elsewhere how it was built, for its checkpoints.

    Raises:
        UsageError: it has no classifier of that many classes.
    """
    head = find_head(model, num_classes or None)
    classes = count_outputs(prunable_layers(model)[head])
    source = {"architecture": name, "num_classes": classes, "options": dict(options)}
    setattr(model, SOURCE, source)
