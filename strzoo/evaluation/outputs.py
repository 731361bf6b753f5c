"""What a network puts out, read as class scores: which of several outputs, what its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strzoo.models.scores import find_scores, flatten_scores

LOGITS, SOFTMAX, SIGMOID, LOG_SOFTMAX = "logits", "softmax", "sigmoid", "log-softmax"
WITH_BACKGROUND = 1001  # ImageNet's classes and one for none of them
BACKGROUNDS = ("first", "last", "none")
_SMALLEST = 1e-30  # a probability of zero has a finite logarithm this way
_SUM_TOLERANCE = 1e-2  # of a row of probabilities in half precision, or quantised to 8 bits


class OutputReader:
    """Makes scores [B, classes] of what a network puts out.

    Args:
        name: of the network, for messages.
        activation: "softmax", "sigmoid", "log-softmax" or "logits"; None if it is not known: the
            first outputs tell then, as rows that sum to one with none negative are probabilities.
        background: "first" or "last": a class to drop, which no data set has; "none" for none.
        find_background: says where it is in a network of `WITH_BACKGROUND` classes, and why, if
            `background` is None.
        notes: what was chosen, for people.
    """

    def __init__(
        self,
        name: str,
        activation: str | None = None,
        background: str | None = None,
        notes: tuple[str, ...] = (),
        find_background: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        self._name, self._background = name, background
        self._find_background = find_background
        self._found = ""  # what was said of a background that was found, not asked for
        self.activation, self.notes = activation, notes

    @property
    def gives_probabilities(self) -> bool:
        """Whether the scores are logarithms of the network's own probabilities, not logits."""
        return self.activation in (SOFTMAX, SIGMOID, LOG_SOFTMAX)

    def __call__(self, output: Any) -> Tensor:
        """Scores float32 [B, classes]: logits, or logarithms of the network's probabilities.

        Raises:
            UsageError: the output is no tensor of class scores.
        """
        scores = flatten_scores(find_scores(output, self._name), self._name)
        if self.activation is None:
            self.activation = LOGITS
            if _are_probabilities(scores):
                self.activation = SOFTMAX
                self.notes += (
                    "the outputs are probabilities: rows sum to one and none is negative",
                )
        if self.activation in (SOFTMAX, SIGMOID):
            scores = scores.clamp(min=_SMALLEST).log()
        if self._background is None:
            self._background = "none"
            if scores.shape[1] == WITH_BACKGROUND and self._find_background is not None:
                self._background, reason = self._find_background()
                self._found = (
                    f"the {self._background} of {WITH_BACKGROUND} classes is taken for the "
                    f"background, which no image is of: {reason}"
                )
                self.notes += (self._found,)
        if self._background == "first":
            scores = scores[:, 1:]
        elif self._background == "last":
            scores = scores[:, :-1]
        return scores

    def keep_background(self) -> bool:
        """From now on drop no class, unless it was asked for. Returns whether one was dropped."""
        if not self._found:
            return False
        self.notes = tuple(note for note in self.notes if note != self._found)
        self._background, self._found = "none", ""
        return True

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of each row of scores; the network's own are given as they are."""
        scores = scores.double()
        return scores.exp() if self.gives_probabilities else scores.softmax(-1)


def _are_probabilities(rows: Tensor) -> bool:
    if rows.shape[1] < 2 or len(rows) == 0 or not bool(torch.isfinite(rows).all()):
        return False
    sums = rows.double().sum(1)
    return bool((rows >= 0).all()) and bool(((sums - 1).abs() < _SUM_TOLERANCE).all())
