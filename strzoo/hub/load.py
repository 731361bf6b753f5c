"""load: from a name or a file to a network ready to run, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from strzoo.analysis.report import find_weights, is_file_argument
from strzoo.checkpoint import read_checkpoint
from strzoo.errors import UsageError
from strzoo.models import create_model
from strzoo.models.blocks import initialize
from strzoo.settings import Settings
from strzoo.sparse.layers import STRLayer
from strzoo.zoo.registry import FORMATS, ModelCard, Preprocessing, get_card

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def load(
    name_or_file: str | os.PathLike[str],
    *,
    format: str | None = None,
    pretrained: bool | str | os.PathLike[str] = True,
    num_classes: int | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> nn.Module:
    """A network of the zoo, or of a checkpoint file, in evaluation mode on the CPU.

    Args:
        name_or_file: a model id (or unique prefix), or a checkpoint file.
        format: "dense" (plain convolutions holding the effective weights) or "str" (trainable
            weights and thresholds). By default dense for an id; for a file, what it holds.
        pretrained: True loads the published weights, from the cache or by download; False
            gives random weights; a path loads that file as the weights of the named model.
        num_classes: another number of classes than the weights have replaces the classifier
            by a randomly initialised one and keeps everything else.
        settings: cache folder, registries, network switches; from the environment by default.
        options: with `pretrained=False`, further arguments of `create_model`.

    Raises:
        UnknownNameError, UsageError: the id, format or option is not valid.
        OfflineError, NetworkError: the weights are not in the cache and cannot be fetched.
        IntegrityError: the file is damaged or not that model.
    """
    if format not in (None, *FORMATS):
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if options and pretrained is not False:
        raise UsageError(f"{next(iter(options))!r} is only for pretrained=False")
    text = os.fspath(name_or_file)
    if is_file_argument(text):
        if pretrained is not True:
            raise UsageError(f"{text} is a file: its weights are loaded; leave out pretrained")
        model = read_checkpoint(text).build_model(format)
        return _with_classes(model, num_classes)
    settings = settings or Settings.from_env()
    card = get_card(text, settings=settings)
    format = format or "dense"
    if pretrained is False:
        layer = "str" if format == "str" else "dense"
        classes = card.num_classes if num_classes is None else num_classes
        return create_model(card.architecture, num_classes=classes, layer=layer, **options).eval()
    path = weights_path(card.id, format, settings) if pretrained is True else Path(pretrained)
    checkpoint = read_checkpoint(path, architecture=card.architecture)
    return _with_classes(checkpoint.build_model(format), num_classes)


def weights_path(name: str, format: str, settings: Settings) -> Path:
    """A verified file that gives that format: from the cache (an STR file gives dense too), else
    downloaded. Errors as `load`."""
    card = get_card(name, settings=settings)
    card.file(format)
    if format == "dense" and (found := find_weights(card, settings)):
        return found[0]
    from strzoo.downloads.download import download

    return download(card.id, format=format, settings=settings)


def _with_classes(model: nn.Module, num_classes: int | None) -> nn.Module:
    fc = model.fc
    assert isinstance(fc, nn.Conv2d)
    if num_classes in (None, fc.out_channels):
        return model
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; it must be at least 1")
    options: dict[str, Any] = {"threshold": fc.granularity} if isinstance(fc, STRLayer) else {}
    model.fc = type(fc)(fc.in_channels, num_classes, 1, bias=fc.bias is not None, **options)
    initialize(model.fc)
    return model.eval()


def get_transforms(
    name: str | ModelCard | Preprocessing, *, settings: Settings | None = None
) -> Callable[[Image], Tensor]:
    """The published evaluation preprocessing: PIL image in, normalised [3, crop, crop] out.

    Bilinear resize of the short side, centre crop, scale to [0, 1], normalise.

    Raises:
        UnknownNameError: the id is unknown.
        UsageError: the card names an interpolation that PIL has not.
    """
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    if isinstance(name, str):
        name = get_card(name, settings=settings)
    steps = name.preprocessing if isinstance(name, ModelCard) else name
    modes = {mode.value: mode for mode in InterpolationMode}
    if steps.interpolation not in modes:
        raise UsageError(f"interpolation {steps.interpolation!r} is not one of {', '.join(modes)}")
    compose: Callable[[Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(steps.resize, interpolation=modes[steps.interpolation]),
            transforms.CenterCrop(steps.crop),
            transforms.ToTensor(),
            transforms.Normalize(steps.mean, steps.std),
        ]
    )
    return compose
