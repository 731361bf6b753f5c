"""The class scores that a network in training gives for a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from strzoo.errors import UsageError
from strzoo.models.scores import find_scores, flatten_scores

NAME = "the network"
_TOO_FEW = "more than 1 value per channel"  # torch, of a normalisation in training mode


def read_logits(output: Any, name: str = NAME) -> Tensor:
    """Logits [B, classes], in the type that they come in, of what a network returned: a tensor, or
    what holds one plainly, such as a dict with `logits`. Evaluation reads outputs alike.

    Raises:
        UsageError: there are no such scores in it.
    """
    scores = find_scores(output, name)
    return scores.reshape(flatten_scores(scores, name).shape)


def answer(network: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Logits [B, classes] of images [B, C, H, W] in training.

    Raises:
        UsageError: the network gives none, or cannot normalise so few images.
    """
    try:
        output = network(images)
    except ValueError as error:
        if not is_too_few(error):
            raise
        raise too_few(
            images, "leave smaller batches out (drop_last=True of a DataLoader)"
        ) from error
    return read_logits(output)


def is_too_few(error: BaseException) -> bool:
    """Whether a layer that normalises met a single value per channel, which has no deviation."""
    return isinstance(error, ValueError) and _TOO_FEW in str(error)


def too_few(images: Tensor, advice: str) -> UsageError:
    """The error that says so: the images, and what to change."""
    return UsageError(
        f"{NAME} cannot train on a batch, or a part of one, of {len(images)} image of shape "
        f"{tuple(images.shape[1:])}: its BatchNorm sees a single pixel per channel there and needs "
        f"two; {advice}"
    )
