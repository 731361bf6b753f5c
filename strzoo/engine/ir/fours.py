"""The order in which weights in fixed point are multiplied and added.

Products of four weights are added before they join a sum that saturates. Whoever wants to know
what the sums on the way are has to add in this order.
"""

from __future__ import annotations

import numpy as np

FOUR = 4  # weights at a time
MOST = 32_760  # sum of the magnitudes of four weights, which leaves room for rounding


def form_fours(key: np.ndarray, weight: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries in fixed point, sorted by `key`, in such an order that the sum of the products of
    each four that the kernel takes at once fits 16 bits, whatever the inputs are.

    Args:
        key: of lists of entries, below `count`.

    Returns:
        The order, in which what is not part of a four comes last in each list; and for each list
        how many entries make fours.
    """
    counts = np.bincount(key, minlength=count)
    start = (np.cumsum(counts) - counts)[key]
    size, rank = np.abs(weight.astype(np.int64)), np.arange(len(key)) - start
    whole = counts // FOUR * FOUR
    place, alone = rank.copy(), counts - whole
    heavy = _heavy_fours(key, place, whole, size)
    # In lists with such a four the heaviest go alone, and each four gets some of all sizes.
    entries = np.flatnonzero(heavy[key])
    sorted_rank = np.empty_like(entries)
    sorted_rank[np.lexsort((-size[entries], key[entries]))] = rank[entries]
    while len(entries):
        lists = key[entries]
        whole[heavy] = np.maximum(counts - alone, 0)[heavy]
        fours = np.maximum(whole // FOUR, 1)[lists]
        turn, index = np.divmod(sorted_rank - alone[lists], fours)
        index = np.where(turn % 2, fours - 1 - index, index)
        place[entries] = np.where(turn < 0, whole[lists] + sorted_rank, index * FOUR + turn)
        alone[heavy] = np.minimum(alone + FOUR, counts)[heavy]
        heavy = _heavy_fours(lists, place[entries], np.where(heavy, whole, 0), size[entries])
        left = heavy[lists]
        entries, sorted_rank = entries[left], sorted_rank[left]
    order = np.empty_like(rank)
    order[start + place] = np.arange(len(key))
    return order, whole


def _heavy_fours(
    key: np.ndarray, place: np.ndarray, whole: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """The lists, of which `whole` entries make fours, with a four whose weights are too large."""
    first = (np.cumsum(whole) - whole) // FOUR
    inside = place < whole[key]
    four = first[key[inside]] + place[inside] // FOUR
    sums = np.bincount(four, size[inside], minlength=int(whole.sum()) // FOUR)
    found = np.zeros(len(whole), bool)
    found[np.repeat(np.arange(len(whole)), whole // FOUR)[sums > MOST]] = True
    return found
