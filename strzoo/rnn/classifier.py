"""SequenceClassifier: normalisation, FastGRNN, and a linear layer on its final state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from strzoo.errors import UsageError
from strzoo.rnn.layer import FastGRNN

# Below this a deviation counts as none: the value is constant and is only centred (EdgeML's rule).
_CONSTANT = 1e-6


class SequenceClassifier(nn.Module):
    """Logits [N, classes] of sequences [N, T, in] (always batch first).

    Inputs are normalised, (x - mean) / std; the linear layer `fc` sees the last layer's final
    state, of both directions if there are two.

    Args:
        rnn: the network.
        num_classes: of the linear layer.
        mean, std: [in], or [T, in] for sequences of T steps; 0 and 1 by default.

    Raises:
        UsageError: a wrong shape of `mean` or `std`, or fewer than two classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        rnn: FastGRNN,
        num_classes: int,
        *,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise UsageError(f"num_classes is {num_classes}; it must be at least 2")
        example = next(rnn.parameters())
        self.rnn = rnn
        self.fc = nn.Linear(
            rnn.output_size, num_classes, device=example.device, dtype=example.dtype
        )
        size = rnn.input_size
        values = (
            torch.zeros(size) if mean is None else mean,
            torch.ones(size) if std is None else std,
        )
        for name, value in zip(("mean", "std"), values, strict=True):
            if value.dim() not in (1, 2) or value.shape[-1] != size:
                raise UsageError(
                    f"{name} has shape {list(value.shape)}; it is [{size}], or [T, {size}] for "
                    "sequences of T steps"
                )
            self.register_buffer(name, value.to(example))

    @property
    def num_classes(self) -> int:
        return self.fc.out_features

    @property
    def steps(self) -> int | None:
        """The length that all sequences must have, None for any: set by the normalisation."""
        return len(self.mean) if self.mean.dim() == 2 else None

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits [N, classes].

        Raises:
            UsageError: sequences of another shape than [N, T, in].
        """
        if sequences.dim() != 3 or sequences.shape[2] != self.rnn.input_size:
            raise UsageError(
                f"sequences of shape {list(sequences.shape)} are not [N, T, {self.rnn.input_size}]"
            )
        if self.steps is not None and sequences.shape[1] != self.steps:
            raise UsageError(
                f"sequences have {sequences.shape[1]} steps; this network normalises each of "
                f"{self.steps} steps on its own and takes no other length"
            )
        steps = (sequences - self.mean) / self.std
        _, final = self.rnn(steps if self.rnn.batch_first else steps.transpose(0, 1))
        logits: Tensor = self.fc(torch.cat(final[-len(self.rnn.layers[-1]) :], dim=1))
        return logits

    def fold(self) -> SequenceClassifier:
        """The same network with plain low-rank cells and the same logits."""
        folded = copy.deepcopy(self)
        folded.rnn = self.rnn.fold().train(self.training)
        return folded


def measure_normalisation(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """What each step and feature is to be normalised by, as EdgeML does.

    Args:
        sequences: [N, T, in].

    Returns:
        Mean and deviation, [T, in] each; the deviation of what never changes is 1.
    """
    std = sequences.std(0, correction=0)
    return sequences.mean(0), std.masked_fill(std < _CONSTANT, 1.0)
