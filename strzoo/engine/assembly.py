"""A plan in the making: what the writers of all layers share, and copies between maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from strzoo.engine.emission.moving import CopyKernel
from strzoo.engine.emission.windows import Walk
from strzoo.engine.graph import AveragePool, Bounds, Convolution, MaxPool
from strzoo.engine.hardware import Hardware
from strzoo.engine.layout import Map
from strzoo.engine.lowering import Placement
from strzoo.engine.masks import pixel_mask
from strzoo.engine.steps import Constants, Step
from strzoo.engine.tiling import Tiling


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
    _copied: set[int] = field(default_factory=set)

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

    def line_bytes(self, map_: Map) -> int:
        """Of a plane's line, whole tiles, and a vector that a row may end past it."""
        frame = map_.geometry
        return 4 * self.lanes * (frame.tiles * frame.tile + 2) if frame.tile else 0

    def add(self, layer: str, kernel: object, values: Mapping[str, int | float]) -> Step:
        step = Step(layer, kernel, dict(values))  # type: ignore[arg-type]
        self.steps.append(step)
        return step


def planes_of(name: str, map_: Map) -> dict[str, int]:
    """The fields that say where a map's planes are."""
    return {name: map_.address, f"{name}_plane": map_.plane, f"{name}_tile": map_.tile_bytes}


def copy_pixels(
    work: Assembly,
    layer: str,
    source: Map,
    target: Map,
    *,
    strides: tuple[int, int] = (1, 1),
    phases: tuple[tuple[int, int], ...] = ((0, 0),),
    flatten: bool = False,
) -> None:
    """The pixels of `source` to `target`; with strides, those of each phase to its planes.

    `flatten` writes the pixels of a plane one after the other, as features.
    """
    here, there = source.geometry, target.geometry
    pixel = 4 * work.images
    table = []
    for y, x in phases:
        rows = max(-(-(source.height - y) // strides[0]), 0)
        columns = max(-(-(source.width - x) // strides[1]), 0)
        table.append((y * here.row + x * pixel, rows, columns))
    line, result = work.reserve(
        work.line_bytes(source) + 8 * strides[1] * work.lanes, work.line_bytes(target)
    )
    values = planes_of("source", source) | planes_of("target", target)
    if flatten:
        values["target_plane"] = source.height * source.width * pixel
    work.add(
        layer,
        CopyKernel(work.lanes, work.images, strides[1], source.packed, target.packed),
        values
        | {
            "planes": source.channels,
            "from_tile": max(here.tile, 1),
            "from_vectors": here.vectors,
            "source_row": here.row * strides[0],
            "tile": max(there.tile, 1),
            "vectors": there.vectors,
            "target_row": source.width * pixel if flatten else there.row,
            "phases": len(table),
            "table": work.constants.add(np.asarray(table, np.int64)),
            "line": line,
            "result": result,
            "fill": target.root.fill,
        },
    )


def windowed_source(work: Assembly, layer: Convolution | MaxPool | AveragePool) -> Map:
    """The map that the layer's window reads; made by a copy if it is not the input itself."""
    value = work.placement.values[layer.inputs[0]]
    source = work.placement.sources[layer.name]
    if source is not value and id(source) not in work._copied:
        work._copied.add(id(source))
        taps = work.placement.taps[layer.name]
        copy_pixels(work, layer.name, value, source, strides=taps.strides, phases=taps.phases)
    return source


def window_fields(
    work: Assembly, layer: Convolution | MaxPool | AveragePool, source: Map, target: Map
) -> tuple[Walk, dict[str, int | float]]:
    """How a kernel that slides windows over single planes goes, and the fields that say so."""
    taps = work.placement.taps[layer.name]
    frame, vector, pixel = source.geometry, 4 * work.lanes, 4 * work.images
    direct = layer.name in work.placement.direct
    offsets = np.asarray(taps.phase) * source.plane + taps.offsets(frame.pitch, work.images)
    masked = target.must_be_clean
    stride = taps.strides[1] if direct else 1
    first, packed, before, after, result = 0, 0, 0, 0, 0
    if direct:
        before = -(-(taps.reach[0] * frame.row + taps.reach[1] * pixel) // vector) * vector
        after = taps.reach[2] * frame.row + (taps.reach[3] + 4 * work.lanes) * pixel
        after = -(-after // vector) * vector
        line_bytes = before + work.line_bytes(source) + after + stride * frame.row
        places, line, result = work.reserve(0, line_bytes, work.line_bytes(target))
        line += before
    else:
        # The phases of a channel are planes of their own: the kernel packs them side by side.
        first, packed = packed_range(taps.offsets(frame.pitch, work.images), frame.tile, vector)
        offsets = np.asarray(taps.phase) * packed * vector + taps.offsets(frame.pitch, work.images)
        size = packed * vector * len(taps.phases) + 16 * vector
        places, line = work.reserve(8 * packed, size)
    walk = Walk(work.lanes, work.images, stride, packed, len(taps.phases), masked)
    return walk, {
        **planes_of("source", source),
        **planes_of("target", target),
        "source_vectors": frame.vectors,
        "target_vectors": target.geometry.vectors,
        "tile": target.geometry.tile,
        "from_tile": frame.tile,
        "tiles": target.geometry.tiles,
        "planes": target.channels,
        "offsets": work.constants.add(offsets.astype(np.int32)),
        "mask": work.mask(target),
        "first": first,
        "places": places,
        "line": line,
        "result": result,
        "before": before,
        "after": after,
        "rows": target.height,
        "row_vectors": -(-target.width * work.images // work.lanes),
        "source_row": frame.row * taps.strides[0],
        "target_row": target.geometry.row,
        "fill": source.root.fill,
    }


def bounds_of(bounds: Bounds | None) -> tuple[str, float, float]:
    """(the kernel's name for them, low, high)"""
    if bounds is None or (bounds.low, bounds.high) == (float("-inf"), float("inf")):
        return "none", 0.0, 0.0
    if (bounds.low, bounds.high) == (0.0, float("inf")):
        return "relu", 0.0, 0.0
    return "clamp", float(bounds.low), float(bounds.high)


def packed_range(offsets: np.ndarray, tile: int, vector: int) -> tuple[int, int]:
    """(first vector that a tile's window reads, counted from the tile's start, how many)."""
    first = min(int(offsets.min()), 0) // vector
    last = tile + -(-max(int(offsets.max()), 0) // vector)
    return first, last - first
