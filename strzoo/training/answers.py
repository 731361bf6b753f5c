"""The class scores that a network in training gives for a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from strzoo.models.scores import find_scores, flatten_scores

NAME = "the network"


def read_logits(output: Any, name: str = NAME) -> Tensor:
    """Logits [B, classes], in the type that they come in, of what a network returned: a tensor, or
    what holds one plainly, such as a dict with `logits`. Evaluation reads outputs alike.

    Raises:
        UsageError: there are no such scores in it.
    """
    scores = find_scores(output, name)
    return scores.reshape(flatten_scores(scores, name).shape)
