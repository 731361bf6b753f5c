"""The magnitude mask: which weights DNW and GMP drop, and how the gradient passes."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from strzoo.arguments import show
from strzoo.errors import UsageError
from strzoo.sparse.blocks import block_norms, count_blocks, spread
from strzoo.sparse.soft_threshold import is_traced

# How the bits of a magnitude are read as an integer, and the widths of its digits (no sign bit).
_KEYS = {
    torch.float64: (torch.int64, (16, 16, 16, 15)),
    torch.float32: (torch.int32, (16, 15)),
    torch.float16: (torch.int16, (15,)),
    torch.bfloat16: (torch.int16, (15,)),
}


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

    Args:
        weight: any shape and floating dtype.
        prune_rate: in [0, 1].

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    dropped = count_dropped(prune_rate, weight.numel(), truncate=truncate)
    return magnitude_mask_of(weight, torch.full((), dropped, device=weight.device))


def magnitude_mask_of(weight: Tensor, dropped: Tensor, *, block: int = 1) -> Tensor:
    """`magnitude_mask` for a count that is a tensor: a compiled graph serves every count.

    Exactly `dropped` weights are, whatever their ties. No sort, and a GPU is not waited for: the
    bits of floats that are not negative order as integers do, so the bound is found digit by
    digit, each from a histogram of the values that share the digits before it.

    Args:
        weight: any shape and floating dtype.
        dropped: how many of the smallest |w| to drop, an int64 scalar on `weight`'s device.
        block: input channels that are dropped together; `dropped` then counts blocks.
    """
    if block > 1:
        mask = magnitude_mask_of(block_norms(weight.detach(), block), dropped)
        return spread(mask, weight, block)
    integer, digits = _KEYS[weight.dtype]
    magnitude = weight.detach().abs()
    channels_last = magnitude.dim() == 4 and not magnitude.is_contiguous()
    if channels_last:  # in the order of the memory, without a copy
        magnitude = magnitude.permute(0, 2, 3, 1)
    keys = magnitude.reshape(-1).view(integer)
    left = dropped.reshape(1)  # to drop among the values that share the digits found so far
    bound = torch.zeros_like(left)
    sharing = torch.ones_like(keys, dtype=torch.int32)
    shift = sum(digits)
    for width in digits:
        shift -= width
        digit = ((keys >> shift) & ((1 << width) - 1)).long()
        counts = torch.zeros(1 << width, dtype=torch.int32, device=keys.device)
        totals = counts.scatter_add(0, digit, sharing).cumsum(0)
        chosen = torch.searchsorted(totals, left)
        # Those with a smaller digit are dropped altogether.
        before = totals.gather(0, (chosen - 1).clamp(min=0)).where(chosen > 0, 0)
        left = left - before
        bound = bound | (chosen << shift)
        sharing = ((keys >> shift) == (bound >> shift).to(integer)).int()
    kept = (keys > bound.to(integer)) | ((sharing != 0) & (sharing.cumsum(0) > left))
    mask = kept.to(weight.dtype).view(magnitude.shape)
    return mask.permute(0, 3, 1, 2) if channels_last else mask


def keep_largest(
    weight: Tensor,
    prune_rate: float,
    *,
    straight_through: bool,
    truncate: bool = False,
    block: int = 1,
) -> Tensor:
    """`weight` with its `count_dropped` smallest entries by magnitude set to zero.

    Args:
        weight: any shape and floating dtype.
        prune_rate: in [0, 1].
        straight_through: the gradient reaches every weight unchanged (DNW), not the kept ones
            alone (GMP).
        truncate: drop int(prune_rate * n) weights, not the nearest number.
        block: drop blocks of so many input channels, those of the smallest norms.

    Returns:
        A tensor of `weight`'s shape and dtype.

    Raises:
        UsageError: `prune_rate` is outside [0, 1].
    """
    dropped = count_dropped(prune_rate, count_blocks(weight, block), truncate=truncate)
    if dropped == 0:
        return weight
    bound = find_bound(weight, prune_rate, truncate=truncate) if block == 1 else None
    if bound is None:
        count = torch.full((), dropped, device=weight.device)
        mask = magnitude_mask_of(weight, count, block=block)
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
    if not isinstance(rate, Real) or isinstance(rate, bool):  # NumPy's numbers too are Real
        raise UsageError(f"prune rate {show(rate)} is no number; 0.9 drops 90 % of the weights")
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
