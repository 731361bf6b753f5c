"""Masks of pruning that training code keeps beside the weights they belong to."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

# What is added to the name of a weight, by torch.nn.utils.prune and by code of its kind.
MASK = "_mask"
_WEIGHT = "weight"


def is_mask(value: Tensor) -> bool:
    """Whether all its numbers are 0 or 1."""
    return value.dtype == torch.bool or bool(((value == 0) | (value == 1)).all())


def multiply_masks(
    state: Mapping[str, Tensor], entries: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """`state` with the weights that masks leave, without the masks, and notes.

    A mask is an entry `weight_mask` or `mask` beside `weight`, of its shape, of zeros and ones, and
    none of the network's own `entries`. Everything else stays and is judged later.
    """
    result, count = dict(state), 0
    for key, mask in state.items():
        layer, _, leaf = key.rpartition(".")
        weight = f"{layer}.{_WEIGHT}" if layer else _WEIGHT
        if leaf not in (f"{_WEIGHT}{MASK}", MASK.lstrip("_")) or key in entries:
            continue
        if weight in state and state[weight].shape == mask.shape and is_mask(mask):
            result[weight] = result[weight] * mask.to(result[weight].dtype)
            del result[key]
            count += 1
    return result, [f"{count} pruning masks multiplied in"] if count else []
