"""Blocks of weights that become zero together: consecutive input channels of an output channel, at
one place of its kernel.

An integer dot product takes four inputs at once, so zeros gain there only in groups of four. The
soft threshold of a block shrinks its Euclidean norm, and the block keeps its direction:

    w * relu(1 - t / ||w||)

which is the soft threshold of STR (arXiv:2002.03231, eq. 3) for blocks of one weight, and the
proximal operator of the group lasso (Yuan and Lin, 2006, eq. 2.4) for larger ones. The last block
of an output channel is smaller where the input channels are no multiple of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strzoo.errors import UsageError
from strzoo.sparse.soft_threshold import soft_threshold

LARGEST_BLOCK = 64
ENGINE_BLOCK = 4  # input channels that an integer dot product takes at once


def check_block(block: object) -> int:
    """`block`, or a UsageError unless it is a whole number of input channels, from 1 to 64."""
    if type(block) is not int or not 1 <= block <= LARGEST_BLOCK:
        raise UsageError(
            f"block {block!r} is not a whole number of input channels from 1 to {LARGEST_BLOCK}; "
            "4 suits integer dot products"
        )
    return block


def block_norms(weight: Tensor, block: int) -> Tensor:
    """The Euclidean norm of each block.

    Args:
        weight: [out, in, ...].
        block: input channels that go together.

    Returns:
        [out, blocks, places of the kernel].
    """
    return torch.linalg.vector_norm(cut_blocks(weight, block), dim=2)


def count_blocks(weight: Tensor, block: int) -> int:
    """The blocks of a weight; a block of one is a weight of any shape."""
    if block == 1:
        return weight.numel()
    columns = weight.shape[1]
    return weight.numel() // max(columns, 1) * -(-columns // block)


def count_zero_blocks(weight: Tensor, block: int = ENGINE_BLOCK) -> int:
    """The blocks whose weights are all zero."""
    return count_blocks(weight, block) - int(cut_blocks(weight != 0, block).any(2).sum())


def spread(values: Tensor, weight: Tensor, block: int) -> Tensor:
    """The value of each block, [out, blocks, places], at each of its weights."""
    each = values.repeat_interleave(block, 1)[:, : weight.shape[1]]
    return each.reshape(weight.shape)


def sparse_weight(weight: Tensor, threshold: Tensor, block: int) -> Tensor:
    """The soft-thresholded weight, weight by weight or in blocks; arguments as
    `block_soft_threshold`, and for blocks of one weight any that `soft_threshold` takes."""
    if block == 1:
        return soft_threshold(weight, threshold)
    return block_soft_threshold(weight, threshold, block)


def block_soft_threshold(weight: Tensor, threshold: Tensor, block: int) -> Tensor:
    """w * relu(1 - t / ||w||) for each block w: a block whose norm is at most t is exactly +0.

    Args:
        weight: [out, in, ...], floating.
        threshold: t >= 0, one element or one for each output channel.
        block: input channels that go together.

    Returns:
        A tensor of `weight`'s shape and dtype.
    """
    wide = weight.to(torch.promote_types(weight.dtype, threshold.dtype))
    norms = block_norms(wide, block)
    bound = threshold.reshape(-1, 1, 1) if threshold.numel() > 1 else threshold.reshape(())
    # A block of zeros has no direction: it stays zero under any threshold, as a weight does.
    scale = functional.relu(1 - bound / norms.clamp(min=torch.finfo(norms.dtype).tiny))
    each = spread(scale, weight, block)
    return torch.where(each > 0, wide * each, 0).to(weight.dtype)


def cut_blocks(weight: Tensor, block: int) -> Tensor:
    """[out, blocks, block, places of the kernel]; what the last block lacks is zero."""
    flat = weight.reshape(*weight.shape[:2], -1)
    missing = -flat.shape[1] % block
    if missing:
        flat = functional.pad(flat, (0, 0, 0, missing))
    return flat.reshape(flat.shape[0], -1, block, flat.shape[2])
