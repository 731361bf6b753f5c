"""Masks of pruning that training code keeps beside the weights they belong to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from strzoo.errors import IntegrityError

# What is added to the name of a weight, by torch.nn.utils.prune and by code of its kind.
MASK = "_mask"
_WEIGHT = "weight"
# An entry of masks is called so and what they are of. Other words tell other masks: old_masks,
# initial_mask, mask_head, attention_mask.
_WORDS = (
    *("masks?", "prun(?:e|ed|er|ing)", "spars(?:e|ity)", "binary", "keep", "current", "final"),
    *("weights?", "model", "net(?:work)?", "module", "layers?", "param(?:eter)?s?", "tensors?"),
    *("state", "dict", "list", "by", "names?", "all", "global"),
)
_NAME = re.compile(rf"(?:(?:{'|'.join(_WORDS)})[\W_\d]*)+", re.IGNORECASE)
_LONGEST_NAME = 80


def names_masks(name: str) -> bool:
    """Whether an entry of that name can be the masks of the weights beside it."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def join_masks(
    entries: Mapping[str, Mapping[str, Tensor]], odd: Sequence[str], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The masks of entries beside a state dict, by the names that torch.nn.utils.prune gives them,
    and notes.

    Args:
        entries: by their names, masks by the keys of the weights.
        odd: names of entries that are left out, as they may be masks of something else.
        state: the state dict, which may hold masks of its own.

    Raises:
        IntegrityError: two of them differ for the same weight.
    """
    found: dict[str, Tensor] = {}
    told: dict[str, str] = {}
    other = []
    for name, masks in entries.items():
        for key, mask in masks.items():
            if not is_mask(mask):
                other.append(name)
                continue
            before = found.get(key + MASK, state.get(key + MASK))
            if before is not None and not _same(before, mask):
                raise IntegrityError(
                    f"{name} and {told.get(key, 'the state dict')} hold different pruning masks of "
                    f"{key[:80]!r}; leave one of them, as 'masks', and save the file again"
                )
            found[key + MASK], told[key] = mask, name
    notes = [f"{n} holds other numbers than 0 and 1: not applied" for n in dict.fromkeys(other)]
    if odd:
        notes.append(
            f"{', '.join(odd[:8])} not applied: not certain to be the masks of these weights; "
            "masks are taken from an entry called 'masks'"
        )
    return found, notes


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


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
