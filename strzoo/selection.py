"""Selection by magnitude: which weights DNW and GMP drop, and how the gradient passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strzoo.errors import UsageError


def magnitude_mask(weight: Tensor, prune_rate: float) -> Tensor:
    """0/1 mask, in `weight`'s dtype, that drops the round(prune_rate * n) smallest |w|.

    Ties are broken so that the count is exact: a rate k/n drops k weights, whatever they are.
    Selection (linear time), not a sort.

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    check_prune_rate(prune_rate)
    count = weight.numel()
    dropped = round(prune_rate * count)
    if dropped == 0:
        return torch.ones_like(weight)
    magnitude = weight.detach().abs().reshape(-1)
    drop_is_smaller = 2 * dropped <= count
    chosen = torch.topk(
        magnitude,
        dropped if drop_is_smaller else count - dropped,
        largest=not drop_is_smaller,
        sorted=False,
    ).indices
    mask = torch.full_like(magnitude, 1.0 if drop_is_smaller else 0.0)
    mask[chosen] = 0.0 if drop_is_smaller else 1.0
    return mask.view_as(weight)


def check_prune_rate(rate: float) -> float:
    """`rate` as a float in [0, 1], or a UsageError."""
    if not 0 <= rate <= 1:
        raise UsageError(f"prune rate {rate} is outside [0, 1]; 0.9 drops 90 % of the weights")
    return float(rate)


class _StraightThrough(torch.autograd.Function):
    """weight * mask whose gradient reaches every weight unchanged (DNW)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
