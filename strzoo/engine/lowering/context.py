"""A plan in the making: what the writers of all layers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from strzoo.engine.codegen.windows import PLANES, Walk
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import AveragePool, Bounds, Convolution, MaxPool
from strzoo.engine.layout.buffers import Map
from strzoo.engine.layout.masks import pixel_mask
from strzoo.engine.layout.memory_plan import Placement
from strzoo.engine.layout.patches import Moves, find_patch, list_moves
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.instructions import Constants, Step


@dataclass
class Assembly:
    """Steps and constants of a plan in the making; `chosen` says how each layer runs."""

    placement: Placement
    hardware: Hardware
    tilings: Mapping[str, Tiling]
    threads: int = 1
    constants: Constants = field(default_factory=Constants)
    steps: list[Step] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)
    scratch: int = 0
    copied: set[int] = field(default_factory=set)

    @property
    def images(self) -> int:
        return self.placement.images

    @property
    def lanes(self) -> int:
        return self.hardware.lanes

    def mask(self, map_: Map) -> int:
        """Constants offset of the map's pixel mask, if its gaps must be kept clean; else 0."""
        if not map_.must_be_clean:
            return 0
        frame = replace(map_.geometry, height=map_.height, width=map_.width, tile=1, phases=1)
        return self.constants.add(pixel_mask(frame), ("mask", frame), spare=4 * self.lanes)

    def reserve(self, *sizes: int) -> list[int]:
        """Scratch offsets for areas of so many bytes each."""
        offsets, end = [], 0
        for size in sizes:
            offsets.append(end)
            end += -(-size // 64) * 64 + 64
        self.scratch = max(self.scratch, end)
        return offsets

    def move_fields(self, moves: Moves | None) -> dict[str, int | float]:
        """The fields that say how patches are filled."""
        if moves is None:
            return {"move_ends": 0, "moves": 0}
        return {
            "move_ends": self.constants.add(moves.ends),
            "moves": self.constants.add(moves.moves),
        }

    def add(self, layer: str, kernel: object, values: Mapping[str, int | float]) -> Step:
        step = Step(layer, kernel, dict(values))  # type: ignore[arg-type]
        self.steps.append(step)
        return step


def planes_of(name: str, map_: Map) -> dict[str, int]:
    """The fields that say where a map's planes are."""
    return {name: map_.address, f"{name}_plane": map_.plane, f"{name}_tile": map_.tile_bytes}


def pieces_of(map_: Map) -> dict[str, int]:
    """The fields that say how its tiles are dealt out to the pieces of the arena."""
    tiles = 1 if map_.packed else map_.geometry.piece_tiles
    return {"piece_tiles": tiles, "pitch": map_.root.pitch}


def window_fields(
    work: Assembly, layer: Convolution | MaxPool | AveragePool, source: Map, target: Map
) -> tuple[Walk, dict[str, int | float]]:
    """How a kernel that slides windows over single planes goes, and the fields that say so."""
    taps, frame = work.placement.taps[layer.name], target.geometry
    patch = find_patch(taps, frame.tile, frame.regions)
    moves = list_moves(taps, patch, source, frame)
    size = 4 * work.lanes * patch.vectors
    offsets = np.asarray(taps.phase) * size + patch.offsets(taps, work.lanes)
    (slab,) = work.reserve(PLANES * size * len(taps.phases))
    last = frame.vectors - (frame.tiles - 1) * frame.tile
    walk = Walk(work.lanes, frame.tile, last, moves.form, len(taps.phases), target.must_be_clean)
    values = planes_of("source", source) | planes_of("target", target)
    del values["source_tile"]
    return walk, {
        **values,
        **pieces_of(target),
        **work.move_fields(moves),
        "target_vectors": frame.vectors,
        "tile": frame.tile,
        "tiles": frame.tiles,
        "planes": target.channels,
        "offsets": work.constants.add(offsets.astype(np.int32)),
        "mask": work.mask(target),
        "slab": slab,
        "fill": source.root.fill,
    }


def bounds_of(bounds: Bounds | None) -> tuple[str, float, float]:
    """(the kernel's name for them, low, high)"""
    if bounds is None or (bounds.low, bounds.high) == (float("-inf"), float("inf")):
        return "none", 0.0, 0.0
    if (bounds.low, bounds.high) == (0.0, float("inf")):
        return "relu", 0.0, 0.0
    return "clamp", float(bounds.low), float(bounds.high)
