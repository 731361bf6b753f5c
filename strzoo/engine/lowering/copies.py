"""Steps that move values from map to map, in from the caller's images, out to his results."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.copies import FillKernel, TakeKernel
from strzoo.engine.ir.graph import AveragePool, Convolution, MaxPool
from strzoo.engine.layout.buffers import Map
from strzoo.engine.lowering.context import Assembly, pieces_of, planes_of


def enter(work: Assembly, target: Map) -> None:
    """The caller's images [n, C, H, W] into the map."""
    rows, columns = np.indices((target.height, target.width))
    size = 4 * target.height * target.width
    source = {"source": 0, "source_plane": size, "source_image": size * target.channels}
    places = (rows * target.width + columns) * 4
    _fill(work, "input", "input", source, [places], target, target.channels)


def leave(work: Assembly, source: Map) -> None:
    """A map or features to the caller's results [n, ...]."""
    size = 4 * source.height * source.width
    target = {"target": 0, "target_plane": size, "target_image": size * source.channels}
    _take(work, "output", "output", source, target)


def flatten(work: Assembly, layer: str, source: Map, target: Map) -> None:
    """The pixels of each plane one after the other, as features."""
    size = 4 * work.images * source.height * source.width
    fields = {"target": target.address, "target_plane": size, "target_image": 0}
    _take(work, layer, "arena", source, fields)


def copy_pixels(
    work: Assembly,
    layer: str,
    source: Map,
    target: Map,
    *,
    strides: tuple[int, int] = (1, 1),
    phases: tuple[tuple[int, int], ...] = ((0, 0),),
) -> None:
    """The pixels of `source` to `target`; with strides, those of each phase to its planes."""
    if target.packed:
        flatten(work, layer, source, target)
        return
    places = []
    for y, x in phases:
        rows = max(-(-(source.height - y) // strides[0]), 0)
        columns = max(-(-(source.width - x) // strides[1]), 0)
        row, column = np.indices((rows, columns))
        places.append(_pixel_bytes(source, row * strides[0] + y, column * strides[1] + x))
    fields = {"source": source.address, "source_plane": source.plane, "source_image": 0}
    _fill(work, layer, "arena", fields, places, target, source.channels)


def windowed_source(work: Assembly, layer: Convolution | MaxPool | AveragePool) -> Map:
    """The map that the layer's window reads; made by a copy if it is not the input itself."""
    value = work.placement.values[layer.inputs[0]]
    source = work.placement.sources[layer.name]
    if source is not value and id(source) not in work.copied:
        work.copied.add(id(source))
        taps = work.placement.taps[layer.name]
        copy_pixels(work, layer.name, value, source, strides=taps.strides, phases=taps.phases)
    return source


def _fill(
    work: Assembly,
    layer: str,
    origin: str,
    source: dict[str, int],
    places: list[np.ndarray],
    target: Map,
    planes: int,
) -> None:
    """Args: `places` are, for each phase, the bytes [rows, columns] at which pixels are in the
    source."""
    frame = target.geometry
    floats = frame.vectors * frame.lanes
    table = np.zeros((len(places), floats), np.int32)
    mask = np.zeros((len(places), floats), np.uint32)
    for phase, here in enumerate(places):
        there = frame.floats(*np.indices(here.shape))
        for image in range(frame.images):
            table[phase, there + image] = here
            mask[phase, there + image] = 0xFFFFFFFF
    masked = target.must_be_clean and not mask.all()
    work.add(
        layer,
        FillKernel(work.lanes, work.images, origin, masked, target.root.fill != 0),
        source
        | planes_of("target", target)
        | pieces_of(target)
        | {
            "planes": planes,
            "phases": len(places),
            "tile": frame.tile,
            "tiles": frame.tiles,
            "target_vectors": frame.vectors,
            "places": work.constants.add(table),
            "mask": work.constants.add(mask) if masked else 0,
            "fill": target.root.fill,
        },
    )


def _take(
    work: Assembly, layer: str, destination: str, source: Map, target: dict[str, int]
) -> None:
    rows, columns = np.indices((source.height, source.width))
    places, planes, plane = _pixel_bytes(source, rows, columns), source.channels, source.plane
    if source.packed:
        # Features are planes of one pixel: all of them are taken as one plane.
        places, planes = np.arange(source.channels) * plane, 1
    work.add(
        layer,
        TakeKernel(work.lanes, work.images, destination),
        target
        | {
            "source": source.address,
            "source_plane": plane,
            "planes": planes,
            "pixels": places.size,
            "places": work.constants.add(places.astype(np.int32)),
        },
    )


def _pixel_bytes(map_: Map, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bytes from the start of a plane to pixels of it."""
    frame = map_.geometry
    if not frame.tile:
        return np.zeros_like(rows)
    return map_.bytes(frame.floats(rows, columns))
