"""Whether a plan that comes from a file stays within its memory, as far as its numbers tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from strzoo.engine.codegen.packing import PackKernel, UnpackKernel
from strzoo.engine.codegen.windows import PLANES
from strzoo.engine.hardware import Hardware
from strzoo.engine.lowering.instructions import ROW_FIELDS
from strzoo.engine.lowering.plan import Plan

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
    "copy_ends",
    "copies",
    "places",
)
_REALS = ("low", "high", "fill", "scale")  # the bits of a float64


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
        if name not in _REALS and not 0 <= value <= _LARGEST:
            raise ValueError(f"{name} is {value}")
    if row.get("piece_tiles", 1) < 1:
        raise ValueError("pieces of no tiles")
    for name, plane in _PLACES.items():
        if name in row and row[name] >= plan.arena:
            raise ValueError(f"{name} is {row[name]}, the arena has {plan.arena} bytes")
        if plane in row and row[plane] * max(_planes(kernel, row, name) - 1, 0) > plan.arena:
            raise ValueError(f"{plane} is {row[plane]}")
    if "target_tile" in row and "tiles" in row:
        size = getattr(kernel, "tile", row.get("tile", 1))
        last = row["target"] + _last_tile(row, "target")
        last += max(_planes(kernel, row, "target") - 1, 0) * row["target_plane"]
        if last + 4 * plan.images * size > plan.arena:
            raise ValueError(f"it writes tiles of {size} vectors up to {last}")
    for name in _TABLES:
        if name in row and row[name] > len(plan.constants):
            raise ValueError(f"{name} is {row[name]} of {len(plan.constants)} bytes of constants")
    if row.get("slab", 0) >= plan.scratch:
        raise ValueError(f"slab is {row['slab']} of {plan.scratch} bytes of scratch memory")
    if isinstance(kernel, PackKernel | UnpackKernel):
        _check_places(plan, kernel, row)
    if "copies" in row:
        _check_moves(plan, kernel, row)
    if "part_rows" in row and row["parts"]:
        _check_parts(plan, kernel, row)


def _check_places(plan: Plan, kernel: PackKernel | UnpackKernel, row: dict[str, int]) -> None:
    """Values are moved within the arena, and within the caller's arrays."""
    if kernel.images != plan.images:
        raise ValueError(f"{kernel.images} images of {plan.images}")
    fill = isinstance(kernel, PackKernel)
    floats = row["phases"] * row["target_vectors"] * plan.lanes if fill else row["pixels"]
    places = _integers(plan, row["places"], floats)
    if (
        isinstance(kernel, PackKernel)
        and kernel.masked
        and row["mask"] + 4 * floats > len(plan.constants)
    ):
        raise ValueError(f"a mask of {floats} numbers at {row['mask']}")
    if places.min(initial=0) < 0:
        raise ValueError("places before the start")
    end = int(places.max(initial=0)) + max(row["planes"] - 1, 0) * row["source_plane"]
    if isinstance(kernel, PackKernel) and kernel.origin == "input":
        limit = 4 * math.prod(plan.input_shape)
        if row["source_image"] != limit:
            raise ValueError(f"images of {row['source_image']} bytes, {plan.input_shape} expected")
    else:
        end, limit = end + row["source"] + 4 * (plan.images - 1), plan.arena
    if end + 4 > limit:
        raise ValueError(f"it reads up to {end} of {limit} bytes")
    if isinstance(kernel, PackKernel):
        last = row["target"] + _last_tile(row, "target")
        last += (row["planes"] * row["phases"] - 1) * row["target_plane"]
        last, limit = last + 4 * plan.lanes * row["tile"], plan.arena
    elif kernel.destination == "output":
        last = (row["planes"] - 1) * row["target_plane"] + 4 * row["pixels"]
        limit = 4 * math.prod(plan.output_shape)
        if row["target_image"] != limit:
            raise ValueError(f"results of {row['target_image']} bytes, {limit} expected")
    else:
        last = row["target"] + (row["planes"] - 1) * row["target_plane"]
        last, limit = last + 4 * plan.images * row["pixels"], plan.arena
    if last > limit:
        raise ValueError(f"it writes up to {last} of {limit} bytes")


def _check_moves(plan: Plan, kernel: Any, row: dict[str, int]) -> None:
    """Patches are filled from the arena and stay within scratch memory."""
    walk = getattr(kernel, "walk", kernel)
    form, vector = walk.patch, 4 * plan.lanes
    if not form.size:
        return
    ends = _integers(plan, row["copy_ends"], row["tiles"] * len(form.kinds) + 1)
    if ends[0] != 0 or np.any(np.diff(ends) < 0):
        raise ValueError("copies out of order")
    copies = _integers(plan, row["copies"], 2 * int(ends[-1])).reshape(-1, 2)
    if copies.size and copies.min() < 0:
        raise ValueError("copies before the start")
    source, target = (int(copies[:, side].max(initial=0)) + vector for side in (0, 1))
    if "block_planes" in row:
        blocks = _integers(plan, row["block_planes"], row["blocks"] + 1)
        planes, together = int(blocks.max()), int(np.diff(blocks).max())
    else:
        planes = row["planes"] // max(row.get("multiplier", 1), 1) * walk.phases
        together = PLANES * walk.phases
    source += row["source"] + (planes - 1) * row["source_plane"]
    if source > plan.arena or target > form.size * vector:
        raise ValueError(f"copies up to {source} of {plan.arena} bytes, to {target}")
    places = [form.place(output) for output in range(walk.tile)]
    if max(places) >= form.size or row["slab"] + together * form.size * vector > plan.scratch:
        raise ValueError(f"patches of {form.size} vectors of {together} planes")


def _last_tile(row: dict[str, int], name: str) -> int:
    """Bytes from a map's first tile to where the last piece's last one would be."""
    piece = max(row["tiles"] - 1, 0) // row["piece_tiles"]
    return piece * row["pitch"] + (row["piece_tiles"] - 1) * row[f"{name}_tile"]


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
    count, blocks, rows = int(ends[-1]), row["blocks"], row["rows"]
    order = _integers(plan, row["order"], blocks * rows)
    if order.min(initial=0) < 0 or order.max(initial=0) >= max(rows, 1):
        raise ValueError(f"a row beyond the {rows}")
    for name, size in (("entries", 2), ("weights", 4)):
        if row[name] % size or row[name] + size * count > len(plan.constants):
            raise ValueError(f"{name} of {count} weights at {row[name]}")
    planes = _integers(plan, row["block_planes"], blocks + 1)
    if planes[0] != 0 or np.any(np.diff(planes) < 0):
        raise ValueError("blocks out of order")
    form, vector = kernel.patch, 4 * plan.lanes
    wide = 1 + max(form.place(output) for output in range(kernel.tile))
    offsets = plan.constants[row["entries"] : row["entries"] + 2 * count].view(np.uint16)
    tile = row["source"] + _last_tile(row, "source")
    for block in range(blocks):
        part = offsets[ends[block * rows] : ends[(block + 1) * rows]]
        last = vector * (int(part.max(initial=0)) + wide)
        if form.size:
            room = vector * form.size * int(planes[block + 1] - planes[block])
        else:
            room = plan.arena - tile - int(planes[block]) * row["source_plane"]
        if len(part) and last > room:
            raise ValueError(f"entries up to {last} of {room} bytes")


def _integers(plan: Plan, start: int, count: int) -> np.ndarray:
    """`count` int32 of the constants."""
    end = start + 4 * count
    if start % 4 or end > len(plan.constants):
        raise ValueError(f"a table of {count} numbers at {start}")
    return plan.constants[start:end].view(np.int32)
