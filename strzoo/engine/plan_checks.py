"""Whether a plan that comes from a file stays within its memory, as far as its numbers tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from strzoo.engine.emission.moving import EnterKernel, LeaveKernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.planning import Plan
from strzoo.engine.steps import ROW_FIELDS

_LARGEST = 1 << 40  # bytes; no plan comes near it
# Fields that are offsets into the arena, each with the bytes from plane to plane.
_PLACES = {
    "source": "source_plane",
    "target": "target_plane",
    "other": "other_plane",
    "residual": "residual_plane",
}
# Fields that are offsets into the constants.
_TABLES = (
    "part_rows",
    "ends",
    "entries",
    "bias",
    "mask",
    "block_planes",
    "offsets",
    "weights",
    "scales",
    "shifts",
    "table",
)
_REALS = ("low", "high", "fill", "scale")  # the bits of a float64
_SIGNED = ("first", *_REALS)


def check_plan(plan: Plan, hardware: Hardware) -> None:
    """Raise a ValueError unless every step's numbers fit the plan's memory and tables."""
    if plan.rows.shape != (len(plan.kernels), ROW_FIELDS) or not len(plan.rows):
        raise ValueError(f"rows of shape {plan.rows.shape}")
    if plan.lanes != hardware.lanes or plan.images & (plan.images - 1):
        raise ValueError(f"{plan.lanes} lanes, {plan.images} images")
    if len(plan.layers) != len(plan.kernels) or len(plan.input_shape) != 3:
        raise ValueError(f"{len(plan.layers)} layers, input {plan.input_shape}")
    if max(plan.arena, plan.scratch) > _LARGEST:
        raise ValueError(f"{plan.arena} and {plan.scratch} bytes of memory")
    _check_barriers(plan.rows[:, 1])
    for index, kernel in enumerate(plan.kernels):
        row = dict(zip(kernel.fields, plan.rows[index].tolist(), strict=False))
        try:
            _check_step(plan, kernel, row)
        except ValueError as error:
            raise ValueError(f"step {index}, {kernel.name}: {error}") from None


def _check_barriers(numbers: np.ndarray) -> None:
    """Those that wait are numbered from 1 on: threads would wait for ever for another count."""
    waiting = numbers[numbers != 0]
    if not np.array_equal(waiting, np.arange(1, len(waiting) + 1)):
        raise ValueError("barriers out of order")


def _check_step(plan: Plan, kernel: Any, row: dict[str, int]) -> None:
    for name, value in row.items():
        if name not in _SIGNED and not 0 <= value <= _LARGEST:
            raise ValueError(f"{name} is {value}")
    for name, plane in _PLACES.items():
        if name in row and row[name] >= plan.arena:
            raise ValueError(f"{name} is {row[name]}, the arena has {plan.arena} bytes")
        if plane in row and row[plane] * max(_planes(kernel, row, name) - 1, 0) > plan.arena:
            raise ValueError(f"{plane} is {row[plane]}")
    if "target_tile" in row and "tiles" in row:
        size = getattr(kernel, "tile", row.get("tile", 1))
        last = row["target"] + max(row["tiles"] - 1, 0) * row["target_tile"]
        last += max(_planes(kernel, row, "target") - 1, 0) * row["target_plane"]
        if last + 4 * plan.images * size > plan.arena:
            raise ValueError(f"it writes tiles of {size} vectors up to {last}")
    _check_ends(plan, kernel, row)
    for name in _TABLES:
        if name in row and row[name] > len(plan.constants):
            raise ValueError(f"{name} is {row[name]} of {len(plan.constants)} bytes of constants")
    for name in ("slab", "places", "line", "result"):
        if row.get(name, 0) >= plan.scratch:
            raise ValueError(f"{name} is {row[name]} of {plan.scratch} bytes of scratch memory")
    if not -_LARGEST < row.get("first", 0) <= 0:
        raise ValueError(f"first is {row['first']}")
    if "part_rows" in row and row["parts"]:
        _check_parts(plan, kernel, row)


def _check_ends(plan: Plan, kernel: Any, row: dict[str, int]) -> None:
    """Where images come in and results go out: the caller's arrays have those shapes."""
    if isinstance(kernel, EnterKernel):
        name, shape, planes = "target", plan.input_shape, row["planes"]
        given = (planes, row["rows"], row["columns"])
    elif isinstance(kernel, LeaveKernel):
        name, shape, planes = "source", plan.output_shape, row["planes"]
        given = (planes, row["rows"], row["columns"])
    else:
        return
    if math.prod(given) != math.prod(shape) or kernel.images != plan.images:
        raise ValueError(f"images of {given}, {shape} expected")
    tiles = -(-row["vectors"] // row["tile"]) if row["tile"] else 0
    last = row[name] + max(tiles - 1, 0) * row[f"{name}_tile"]
    last += (planes - 1) * row[f"{name}_plane"]
    if last > plan.arena:
        raise ValueError(f"{name} ends at {last}, the arena has {plan.arena} bytes")


def _planes(kernel: Any, row: dict[str, int], name: str) -> int:
    """How many planes the step walks over; 1 where the row does not say."""
    if name in ("target", "residual") and "rows" in row and "tiles" in row:
        return row["rows"]
    return row.get("planes", 1) if name == "target" else 1


def _check_parts(plan: Plan, kernel: Any, row: dict[str, int]) -> None:
    """The rows that threads share: in order, and no more than there are."""
    parts = _integers(plan, row["part_rows"], row["parts"] + 1)
    if parts[0] < 0 or np.any(np.diff(parts) < 0):
        raise ValueError("parts out of order")
    if "tiles" in row and parts[-1] > row["rows"]:
        raise ValueError(f"parts of {parts[-1]} rows, there are {row['rows']}")
    if "tiles" in row and getattr(kernel, "rows", 0) == 1:
        _check_entries(plan, kernel, row)


def _check_entries(plan: Plan, kernel: Any, row: dict[str, int]) -> None:
    """The nonzero weights of a sparse convolution."""
    ends = _integers(plan, row["ends"], row["blocks"] * row["rows"] + 1)
    if ends[0] != 0 or np.any(np.diff(ends) < 0):
        raise ValueError("entries out of order")
    offsets = _integers(plan, row["entries"], 2 * int(ends[-1]))[::2]
    planes = _integers(plan, row["block_planes"], row["blocks"] + 1)
    if planes[0] != 0 or np.any(np.diff(planes) < 0):
        raise ValueError("blocks out of order")
    if not len(offsets):
        return
    low, high = int(offsets.min()), int(offsets.max())
    width = 4 * plan.lanes * kernel.tile
    if kernel.packed:
        room = 4 * plan.lanes * kernel.packed * int(np.diff(planes).max())
        start, limit = row["slab"], plan.scratch
    else:
        room = plan.arena
        start, limit = row["source"] + max(row["tiles"] - 1, 0) * row["source_tile"], plan.arena
    if low < 0 or high + width > room + 64 or start + high + width > limit + 64:
        raise ValueError(f"entries from {low} to {high} of {room} bytes")


def _integers(plan: Plan, start: int, count: int) -> np.ndarray:
    """`count` int32 of the constants."""
    end = start + 4 * count
    if start % 4 or end > len(plan.constants):
        raise ValueError(f"a table of {count} numbers at {start}")
    return plan.constants[start:end].view(np.int32)
