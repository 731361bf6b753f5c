"""Sums of sparse rows at some pixels, and the largest magnitude on the way, by machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from strzoo.engine.quantization.sums_code import EXACT, LANES, UNITS, emit_sums
from strzoo.engine.storage.machine_code import MachineCode, compile_functions

_KIND = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 7)


@dataclass(frozen=True, eq=False)
class Rows:
    """Sparse rows: entries of row r are [ends[r], ends[r + 1]).

    Args:
        ends: [rows + 1].
        places: which row of the given numbers an entry multiplies, [entries].
        weights: [entries].
    """

    ends: np.ndarray
    places: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=1)
def compile_sums() -> RunningSums:
    """The functions, compiled once in a process."""
    return RunningSums()


class RunningSums:
    """The functions, compiled for this processor. Threads may call them at the same time."""

    def __init__(self) -> None:
        self._code: MachineCode = compile_functions(emit_sums, (EXACT, UNITS))
        self._functions: dict[str, Callable[..., None]] = {
            name: _KIND(address) for name, address in self._code.addresses.items()
        }

    def exactly(
        self, rows: Rows, given: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the products of weights and given numbers to `starts`, all in float64.

        Args:
            given: [places, pixels].
            starts: [rows].

        Returns:
            The sums, [rows, pixels], and the largest magnitude after any entry, [rows]: 0 in rows
            without entries.
        """
        return self._run(EXACT, rows, given, starts, np.float64, np.float64)

    def in_units(
        self, rows: Rows, given: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `exactly` with products of fixed point, (a * b + 2^14) >> 15, of numbers of 16 bits;
        sums, int64, do not saturate."""
        return self._run(UNITS, rows, given, starts, np.int32, np.int64)

    def _run(
        self, name: str, rows: Rows, given: np.ndarray, starts: np.ndarray,
        element: type[np.generic], total: type[np.generic],
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        pixels = given.shape[1]
        # What fills the last vector must not be larger than the rest.
        given = np.pad(given, ((0, 0), (0, -pixels % LANES)), mode="edge")
        count = len(rows.ends) - 1
        sums, peaks = np.empty((count, given.shape[1]), total), np.empty((count, LANES), total)
        arrays = [
            np.ascontiguousarray(array, kind)
            for array, kind in (
                (rows.ends, np.int64), (rows.weights, element), (rows.places, np.int64),
                (given, element), (starts, total),
            )
        ]  # fmt: skip
        places = [array.ctypes.data for array in (*arrays, sums, peaks)]
        self._functions[name](count, given.shape[1], *places)
        return sums[:, :pixels], peaks.max(1)
