"""Products of a FastGRNN step with its matrices, by numpy or by torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from strzoo.rnn.gates import Array

# Multiplications up to which OpenBLAS, which numpy brings, uses one thread.
_SMALL_PRODUCT = 1 << 18
_FEWEST_ROWS = 16  # of a part of a product that is still worth a call


def numpy_has_one_thread() -> bool:
    """Whether the environment gives OpenBLAS one thread, so that no product of numpy's has more."""
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        if (value := os.environ.get(name)) is not None:
            return value == "1"
    return False


class Matrix:
    """A matrix that rows are multiplied by.

    numpy's product is the faster one, but its threads are not torch's. So a product that OpenBLAS
    would share between threads is taken in parts if torch has one thread, and is torch's otherwise.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.tensor = matrix.detach().contiguous()
        self._array = self.tensor.numpy()
        self._most: float = math.inf  # rows of one call
        if not numpy_has_one_thread():
            self._most = _SMALL_PRODUCT // max(1, matrix.numel())
        self._parted = torch.get_num_threads() == 1 and self._most >= _FEWEST_ROWS

    def multiply(self, rows: Array, out: Array) -> None:
        """`out` [n, r] becomes rows [n, k] @ the matrix [k, r]; `out` is contiguous."""
        count = len(rows)
        if count <= self._most:
            np.dot(rows, self._array, out)
        elif self._parted:
            step = int(self._most)
            for start in range(0, count, step):
                part = slice(start, start + step)
                np.dot(rows[part], self._array, out[part])
        else:
            torch.mm(torch.from_numpy(rows), self.tensor, out=torch.from_numpy(out))


class Product:
    """rows @ matrices[0] @ matrices[1] ...; `out` is where the result stands after each call."""

    def __init__(self, matrices: list[Tensor], batch: int) -> None:
        self._steps: list[tuple[Callable[[Array, Array], None], Array]] = []
        for one in matrices:
            matrix = Matrix(one)
            out = matrix.tensor.new_zeros(batch, matrix.tensor.shape[1]).numpy()
            self._steps.append((matrix.multiply, out))
        self.out = self._steps[-1][1]

    def __call__(self, rows: Array) -> Array:
        for multiply, out in self._steps:
            multiply(rows, out)
            rows = out
        return rows


class Gathered:
    """Sums over all steps of rows^T @ slopes, for slopes [T, B, s] and several rows [T, B, r].

    Where numpy is used, a part of the steps is added as soon as its slopes are there, and so still
    in the cache.
    """

    def __init__(self, rows: Sequence[Tensor], slopes: Tensor) -> None:
        self._rows = [one.detach().reshape(-1, one.shape[2]) for one in rows]
        self._slopes, self._batch = slopes.flatten(0, 1), slopes.shape[1]
        self._in_parts = numpy_has_one_thread() and torch.get_num_threads() == 1
        self._arrays = [one.numpy() for one in self._rows]
        # Transposed: OpenBLAS takes a tenth less time for slopes^T @ rows.
        self._sums = [slopes.new_zeros(slopes.shape[2], one.shape[1]) for one in self._rows]

    def add(self, start: int, stop: int) -> None:
        """The slopes of the steps from `start` to before `stop` are there."""
        if not self._in_parts:
            return
        part = slice(start * self._batch, stop * self._batch)
        slopes = self._slopes.numpy()[part].T
        for rows, total in zip(self._arrays, self._sums, strict=True):
            found = total.numpy()
            np.add(found, np.dot(slopes, rows[part]), found)

    def sums(self) -> list[Tensor]:
        """[r, s] each, once all slopes are there."""
        if self._in_parts:
            return [one.t().contiguous() for one in self._sums]
        return [rows.t() @ self._slopes for rows in self._rows]
