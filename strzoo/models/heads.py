"""The classifier of any network: found, and replaced by one for another number of classes."""

from __future__ import annotations

from typing import Any

from torch import nn

from strzoo.errors import UsageError
from strzoo.models.blocks import initialize
from strzoo.sparse.layers import STRLayer
from strzoo.sparse.selection import prunable_layers

SOURCE = "strzoo_source"  # attribute of networks that can be built again, see `create_model`


def find_head(model: nn.Module, num_classes: int | None = None) -> str:
    """The name of the classifier: the layer that a library's own configuration names, else the
    last convolution or linear layer that has as many outputs as there are classes.

    Args:
        model: any network; on the meta device, too.
        num_classes: outputs; None takes the last layer, whatever it has.

    Raises:
        UsageError: no layer has so many outputs.
    """
    layers = prunable_layers(model)
    fitting = [n for n, m in layers.items() if num_classes in (None, count_outputs(m))]
    configuration = getattr(model, "pretrained_cfg", None)
    named = configuration.get("classifier") if isinstance(configuration, dict) else None
    if named in fitting:
        return str(named)
    if not fitting:
        raise UsageError(
            f"no convolution or linear layer of {type(model).__name__} has {num_classes} outputs, "
            "so it is no classifier of that many classes"
        )
    return fitting[-1]


def count_outputs(layer: nn.Module) -> int:
    """Outputs of a convolution or linear layer."""
    found = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(found, int)
    return found


def replace_head_(model: nn.Module, name: str, num_classes: int) -> nn.Module:
    """Give `model` a randomly initialised classifier, unless it has that many outputs already.

    Args:
        model: changed in place; its other layers stay.
        name: of the classifier, a linear layer or a 1x1 convolution.
        num_classes: outputs.

    Returns:
        `model`.

    Raises:
        UsageError: `num_classes` is below 1, or the layer is of another kind.
    """
    head = model.get_submodule(name)
    if not isinstance(head, nn.Conv2d | nn.Linear):
        raise UsageError(f"{name}, a {type(head).__name__}, is no classifier that can be replaced")
    if num_classes == len(head.weight):
        return model
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
    options: dict[str, Any] = {"bias": head.bias is not None}
    if isinstance(head, STRLayer):
        options |= {"threshold": head.granularity, "block": head.block}
    if isinstance(head, nn.Conv2d):
        new: nn.Module = type(head)(head.in_channels, num_classes, 1, **options)
    else:
        new = type(head)(head.in_features, num_classes, **options)
    initialize(new)
    model.set_submodule(name, new)
    source = getattr(model, SOURCE, None)
    if source is not None:
        setattr(model, SOURCE, {**source, "num_classes": num_classes})
    return model
