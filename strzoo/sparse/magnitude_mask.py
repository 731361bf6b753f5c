"""The magnitude mask: which weights DNW and GMP drop, and how the gradient passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from strzoo.errors import UsageError
from strzoo.sparse.soft_threshold import is_traced


def count_dropped(prune_rate: float, weights: int, *, truncate: bool = False) -> int:
    """How many of so many weights a rate drops: the nearest whole number, or with `truncate` the
    one below, as the published code of DNW and GMP has it.

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    dropped = check_prune_rate(prune_rate) * weights
    return int(dropped) if truncate else round(dropped)


def magnitude_mask(weight: Tensor, prune_rate: float, *, truncate: bool = False) -> Tensor:
    """0/1 mask, in `weight`'s dtype, that drops the `count_dropped` smallest |w|.

    Ties are broken so that the count is exact: a rate k/n drops k weights, whatever they are.
    Selection (linear time), not a sort.

    Args:
        weight: any shape and floating dtype.
        prune_rate: in [0, 1].

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    count = weight.numel()
    dropped = count_dropped(prune_rate, count, truncate=truncate)
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
    mask.index_fill_(0, chosen, 0.0 if drop_is_smaller else 1.0)
    return mask.view_as(weight)


def magnitude_mask_of(weight: Tensor, dropped: Tensor) -> Tensor:
    """`magnitude_mask` for a count that is a tensor: a compiled graph serves every count.

    Args:
        weight: any shape and floating dtype.
        dropped: how many of the smallest |w| to drop, an int64 scalar on `weight`'s device.
    """
    order = weight.detach().abs().reshape(-1).argsort()
    rank = torch.arange(order.numel(), device=weight.device)
    kept = (rank >= dropped).to(weight.dtype)
    return torch.zeros_like(kept).scatter(0, order, kept).view(weight.shape)


def keep_largest(
    weight: Tensor, prune_rate: float, *, straight_through: bool, truncate: bool = False
) -> Tensor:
    """`weight` with its `count_dropped` smallest entries by magnitude set to zero.

    Args:
        weight: any shape and floating dtype.
        prune_rate: in [0, 1].
        straight_through: the gradient reaches every weight unchanged (DNW), not the kept ones
            alone (GMP).
        truncate: drop int(prune_rate * n) weights, not the nearest number.

    Returns:
        A tensor of `weight`'s shape and dtype.

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    if count_dropped(prune_rate, weight.numel(), truncate=truncate) == 0:
        return weight
    bound = find_bound(weight, prune_rate, truncate=truncate)
    if bound is None:
        mask = magnitude_mask(weight, prune_rate, truncate=truncate)
        result: Tensor = _Masked.apply(weight, mask) if straight_through else weight * mask
    elif straight_through:
        result = _HardThreshold.apply(weight, bound)
    else:
        result = functional.hardshrink(weight, bound)
    return result


def find_bound(weight: Tensor, prune_rate: float, *, truncate: bool = False) -> float | None:
    """The number at or below which exactly `count_dropped` >= 1 magnitudes lie.

    Returns:
        None where there is no such number (ties), and where finding it costs more than a mask
        does: on a GPU it would have to be waited for.
    """
    if weight.device.type != "cpu" or is_traced():
        return None
    dropped = count_dropped(prune_rate, weight.numel(), truncate=truncate)
    magnitude = weight.detach().abs()
    if magnitude.dtype in (torch.float16, torch.bfloat16):
        magnitude = magnitude.float()
    if magnitude.dim() == 4 and not magnitude.is_contiguous():  # channels-last: spare a copy
        magnitude = magnitude.permute(0, 2, 3, 1)
    # numpy selects several times faster than torch's topk and kthvalue, which carry indices.
    values = magnitude.reshape(-1).numpy()
    values.partition(dropped - 1)
    bound: float = values[dropped - 1].item()
    tied = dropped < values.size and np.min(values[dropped:]).item() == bound
    return None if tied else bound


def check_prune_rate(rate: float) -> float:
    """`rate` as a float in [0, 1], or a UsageError."""
    if not 0 <= rate <= 1:
        raise UsageError(f"prune rate {rate} is outside [0, 1]; 0.9 drops 90 % of the weights")
    return float(rate)


class _HardThreshold(torch.autograd.Function):
    """Zero up to a bound, the weight above it; the gradient reaches every weight (DNW)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bound: float) -> Tensor:
        return functional.hardshrink(weight, bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Masked(torch.autograd.Function):
    """weight * mask; its gradient reaches every weight (DNW)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
