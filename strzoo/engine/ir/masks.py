"""Fully connected layers in 16 bits: how their products are summed.

Features become numbers of 16 bits, at most `LARGEST_FEATURE`. Of each segment of the inputs, two
neighbours of each stretch of `AT_ONCE` are summed up in one number of 32 bits.
"""

from __future__ import annotations

import numpy as np

AT_ONCE = 128  # inputs; rows are filled up to a multiple with zeros
SEGMENT = 2048  # inputs, a multiple of `AT_ONCE`
LARGEST_FEATURE = 16383
LARGEST_SUM = (2**31 - 1) // LARGEST_FEATURE  # of the magnitudes of weights


def padded(inputs: int) -> int:
    """The inputs of a row, filled up."""
    return -(-inputs // AT_ONCE) * AT_ONCE


def largest_sums(weight: np.ndarray) -> np.ndarray:
    """The largest sum of magnitudes of the weights of each row, [rows], that have their products in
    the same number, of a matrix [rows, inputs]."""
    rows, inputs = weight.shape
    found = np.zeros(rows)
    for first in range(0, inputs, SEGMENT):
        part = np.abs(weight[:, first : first + SEGMENT])
        spare = padded(part.shape[1]) - part.shape[1]
        numbers = np.pad(part, ((0, 0), (0, spare))).reshape(rows, -1, AT_ONCE // 2, 2)
        np.maximum(found, numbers.sum((1, 3), dtype=np.float64).max(1), out=found)
    return found
