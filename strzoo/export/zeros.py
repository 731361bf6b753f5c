"""Zeros of a network and of the file that is made of it: none may get lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from strzoo.errors import VerificationError
from strzoo.sparse.selection import prunable_layers


def count_zeros(network: nn.Module) -> list[tuple[int, int]]:
    """Weights and zeros of each convolution and linear layer."""
    weights = [layer.weight for layer in prunable_layers(network).values()]
    return [
        (weight.numel(), weight.numel() - int(torch.count_nonzero(weight)))
        for weight in weights
        if isinstance(weight, Tensor)
    ]


def check_zeros(
    path: Path, wanted: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]
) -> None:
    """Raise a VerificationError if layers of the file have fewer zeros than those of the network.

    Layers are told apart by their size. A file has other products beside them (of attention, say),
    has a layer once for each use, and lacks those that are not used: where it has not as many of a
    size, each must have the zeros of one at least.

    Args: `wanted` and `found` are weights and zeros of each layer.
    """
    for size in sorted({size for size, _ in wanted}):
        mine, theirs = (
            sorted(zeros for each, zeros in layers if each == size) for layers in (wanted, found)
        )
        least = mine if len(mine) == len(theirs) else mine[:1] * len(theirs)
        for expected, zeros in zip(least, theirs, strict=True):
            if zeros < expected:
                raise VerificationError(
                    f"{path}: a layer of {size:,} weights has {zeros:,} zeros, {expected:,} in "
                    "torch; nothing was written"
                )
