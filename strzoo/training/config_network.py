"""The keys of a training configuration about the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strzoo.training.keys import (
    DENSITY,
    FIXED,
    FREE,
    NOT_NEGATIVE,
    POSITIVE,
    key,
)

INITIALISATIONS = ("kaiming_normal", "signed_constant", "unsigned_constant", "default")
FANS = ("fan_in", "fan_out")
REPRODUCE, REPRODUCTIONS = "reproduce", ("false", "original")


@dataclass(frozen=True)
class NetworkKeys:
    """The keys of a training configuration about the network."""

    recipe: str = key("", "the recipe this began as", resuming=FREE)
    about: str = key("", "what it is and where its hyperparameters come from", resuming=FREE)

    reproduce: str = key(
        "false", "original: whatever the keys about it leave open is as in the published code of "
        "STR (docs/training.md)", choices=REPRODUCTIONS, resuming=FIXED,
    )  # fmt: skip

    architecture: str = key(
        "resnet50", "resnet18, resnet50, resnet20, mobilenetv1, or a network from elsewhere: "
        "timm:NAME, torchvision:NAME, package.module:function; empty: that of start_from",
        resuming=FIXED,
    )  # fmt: skip
    model_args: tuple[tuple[str, Any], ...] = key(
        (), "model_args.NAME=VALUE: arguments of a network from elsewhere", resuming=FIXED
    )
    pretrained: bool = key(
        False, "begin at the weights that timm, torchvision or the function offers", resuming=FREE
    )
    num_classes: int = key(
        1000, "outputs of the network; the data set must have as many classes; 0: as many as it "
        "has", within=NOT_NEGATIVE, resuming=FIXED,
    )  # fmt: skip
    small_stem: bool = key(
        False, "keep the resolution in the first layer, for 32x32 images", resuming=FIXED
    )
    width: float = key(
        1.0, "multiplies the channels of mobilenetv1", within=POSITIVE, resuming=FIXED
    )
    head_bias: bool | None = key(
        None, "a classifier with bias; none: with reproduce=original, if a ResNet's last layer is "
        "kept dense", resuming=FIXED,
    )  # fmt: skip
    initialisation: str = key(
        "kaiming_normal", "of all convolutions of our own architectures", choices=INITIALISATIONS
    )
    default_initialisation: tuple[str, ...] | None = key(
        None, "layers that begin as torch makes them, as in keep_dense; none: with "
        "reproduce=original all of mobilenetv1 but fc, and a first or last layer kept dense",
    )  # fmt: skip
    fan: str = key("fan_in", "of the initialisation", choices=FANS)
    init_density: float = key(
        1.0, "scaled fan: the fraction of weights that will stay", within=DENSITY
    )
    start_from: str | None = key(None, "fine-tune this model id or checkpoint file", resuming=FIXED)
    keep_mask: bool = key(
        True, "with start_from: weights that are zero there stay zero", resuming=FIXED
    )
    freeze: tuple[str, ...] = key(
        (), "parts that do not train: names or globs, as layer1,*.bn1", resuming=FIXED
    )
    checkpoint_activations: bool = key(
        False, "compute activations again in the backward pass, which saves memory; where the "
        "network offers it (timm's)",
    )  # fmt: skip
