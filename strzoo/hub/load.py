"""load: from a name or a file to a network ready to run, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from strzoo.arguments import checked
from strzoo.data.preprocessing import build_transforms
from strzoo.errors import UsageError
from strzoo.hub.network_sources import CardSource
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import Source
from strzoo.models.create import create_model
from strzoo.models.heads import replace_head_
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@checked
def load(
    name_or_file: Model,
    *,
    format: str | None = None,
    pretrained: bool | str | os.PathLike[str] = True,
    num_classes: int | None = None,
    architecture: str | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> nn.Module:
    """A network of the zoo, or of a checkpoint file, in evaluation mode on the CPU.

    Args:
        name_or_file: a model id (or unique prefix), a checkpoint file, or a run folder.
        format: "dense" (plain convolutions holding the effective weights) or "str" (trainable
            weights and thresholds). By default dense for an id; for a file, what it holds.
        pretrained: True loads the published weights, from the cache or by download; False
            gives random weights; a path loads that file as the weights of the named model.
        num_classes: another number of classes than the weights have replaces the classifier
            by a randomly initialised one and keeps everything else.
        architecture: of a file, the network that it does not say, or whose code is to be run:
            "timm:NAME", "torchvision:NAME" or "package.module:function".
        settings: cache folder, registries, network switches; from the environment by default.
        options: with `pretrained=False`, further arguments of `create_model`.

    Returns:
        The network: images [N, 3, H, W] in, logits [N, num_classes] out.

    Raises:
        UnknownNameError, UsageError: the id, format or option is not valid.
        OfflineError, NetworkError: the weights are not in the cache and cannot be fetched.
        IntegrityError: the file is damaged or not that model.
    """
    if options and pretrained is not False:
        raise UsageError(f"{next(iter(options))!r} is only for pretrained=False")
    if architecture is not None:
        settings = replace(settings or Settings.from_env(), architecture=architecture)
    source = resolve(name_or_file, format=format, settings=settings)
    if not isinstance(source, CardSource):
        if pretrained is not True:
            raise UsageError(
                f"{source.path or source.name} is a file: its weights are loaded; "
                "leave out pretrained"
            )
        return _with_classes(source.build_network(format), source, num_classes)
    card = source.card
    assert card is not None
    if pretrained is False:
        layer = "str" if format == "str" else "dense"
        classes = card.num_classes if num_classes is None else num_classes
        return create_model(card.architecture, num_classes=classes, layer=layer, **options).eval()
    if pretrained is True:
        return _with_classes(source.build_network(format), source, num_classes)
    from strzoo.checkpoint import map_checkpoint

    checkpoint = map_checkpoint(pretrained, architecture=card.architecture)
    return _with_classes(checkpoint.build_model(format or "dense"), source, num_classes)


def _with_classes(model: nn.Module, source: Source, num_classes: int | None) -> nn.Module:
    """`model` with a new classifier, unless it has that many outputs already."""
    if num_classes is None:
        return model
    return replace_head_(model, source.checkpoint.spec.head, num_classes).eval()


@checked
def get_transforms(
    name: Model | ModelCard | Preprocessing, *, settings: Settings | None = None
) -> Callable[[Image], Tensor]:
    """The published evaluation preprocessing: PIL image in, normalised [3, crop, crop] out.

    Bilinear resize of the short side, centre crop, scale to [0, 1], normalise.

    Args:
        name: a model as `strzoo.evaluate` takes it, a card, or a preprocessing.
        settings: cache folder and registries; from the environment by default.

    Returns:
        A callable from a PIL image to a float32 tensor [3, crop, crop].

    Raises:
        UnknownNameError: the id is unknown.
        UsageError: the card names an interpolation that torchvision has not.
    """
    if isinstance(name, Preprocessing):
        return build_transforms(name)
    if isinstance(name, ModelCard):
        return build_transforms(name.preprocessing)
    return build_transforms(resolve(name, settings=settings).preprocessing)
