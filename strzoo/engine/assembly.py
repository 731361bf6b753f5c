"""Maps and layers -> steps: which kernel runs each layer, with which numbers and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from strzoo.engine.convolutions import ConvolutionWriter, packed_range
from strzoo.engine.emission.elementwise import MapKernel, SoftmaxKernel
from strzoo.engine.emission.linear import LinearKernel
from strzoo.engine.emission.moving import CopyKernel, EnterKernel, LeaveKernel
from strzoo.engine.emission.windows import GlobalPoolKernel, PoolKernel, Walk
from strzoo.engine.graph import (
    Add,
    Affine,
    AveragePool,
    Bounds,
    Clamp,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Graph,
    Layer,
    Linear,
    MaxPool,
    Softmax,
)
from strzoo.engine.hardware import Hardware
from strzoo.engine.layout import Map
from strzoo.engine.lowering import Placement
from strzoo.engine.masks import pixel_mask, window_scales
from strzoo.engine.steps import Constants, Step
from strzoo.engine.tiling import Tiling
from strzoo.engine.weights import ENTRY, linear_slices, split_rows

DENSE_LINEAR = 0.4  # a fully connected layer denser than this is read whole
SLICED_IMAGES = 4  # more are lanes themselves


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


def assemble(
    graph: Graph,
    placement: Placement,
    hardware: Hardware,
    tilings: Mapping[str, Tiling],
    threads: int = 1,
) -> Assembly:
    """Args: `tilings` holds those already chosen, by layer; the rules choose the others.
    `threads` work on a group together."""
    work = Assembly(placement, hardware, tilings, threads)
    _enter(work, placement.values[graph.input])
    for layer in graph.layers:
        _WRITERS[type(layer)](work, layer)
    _leave(work, placement.values[graph.output])
    return work


def _enter(work: Assembly, target: Map) -> None:
    (line,) = work.reserve(work.line_bytes(target))
    work.add(
        "input",
        EnterKernel(work.lanes, work.images),
        planes_of("target", target)
        | {
            "planes": target.channels,
            "rows": target.height,
            "columns": target.width,
            "tile": target.geometry.tile,
            "vectors": target.geometry.vectors,
            "row": target.geometry.row,
            "line": line,
        },
    )


def _leave(work: Assembly, source: Map) -> None:
    (line,) = work.reserve(work.line_bytes(source))
    work.add(
        "output",
        LeaveKernel(work.lanes, work.images, source.packed),
        planes_of("source", source)
        | {
            "tile": max(source.geometry.tile, 1),
            "vectors": source.geometry.vectors,
            "row": source.geometry.row,
            "planes": source.channels,
            "rows": source.height,
            "columns": source.width,
            "line": line,
        },
    )


def _copy(
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
        _copy(work, layer.name, value, source, strides=taps.strides, phases=taps.phases)
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


def _convolution(work: Assembly, layer: Convolution) -> None:
    if work.placement.values[layer.output].packed:
        _convolve_vector(work, layer)
        return
    source = windowed_source(work, layer)
    ConvolutionWriter(work, layer, source, work.placement.values[layer.output]).write()


def _convolve_vector(work: Assembly, layer: Convolution) -> None:
    """A convolution of a 1x1 map: only the tap over the pixel counts."""
    out, per_group = layer.weight.shape[:2]
    weight = np.zeros((out, per_group * layer.groups), np.float32)
    steps = work.placement.taps[layer.name].steps
    if (0, 0) in steps:  # a dilated window may miss the pixel
        over = layer.weight.reshape(out, per_group, -1)[:, :, steps.index((0, 0))]
        for row in range(out):
            first = row // (out // layer.groups) * per_group
            weight[row, first : first + per_group] = over[row]
    residual = layer.inputs[1:]
    bounds = None if residual else layer.bounds
    linear = Linear(layer.name, layer.inputs[:1], layer.output, weight, layer.bias, bounds)
    _linear(work, linear)
    if residual:
        _elementwise(work, Add(layer.name, (layer.output, *residual), layer.output, layer.bounds))


def _linear(work: Assembly, layer: Linear) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    assert source.packed, layer.name
    assert target.packed, layer.name
    rows, inputs = layer.weight.shape
    row, column = np.nonzero(layer.weight)
    values: dict[str, int | float] = {}
    entries: np.ndarray
    bias = layer.bias.astype(np.float32)
    if work.images == 1 and len(row) > DENSE_LINEAR * layer.weight.size:
        form, lanes, entries = "dense", work.lanes, layer.weight.astype(np.float32)
        part_rows = split_rows(np.full(rows, float(inputs)))
        values["ends"] = 0
    elif work.images <= SLICED_IMAGES:
        form, lanes = "slices", work.lanes
        ends, entries = linear_slices(layer.weight, lanes, 4 * work.images)
        values["ends"] = work.constants.add(ends)
        part_rows = np.zeros(len(ends), np.int32)
        bias = np.concatenate((bias, np.zeros(-rows % lanes, np.float32)))
    else:
        form, lanes = "rows", 1
        per_row = np.bincount(row, minlength=rows)
        entries = np.empty(len(row), ENTRY)
        entries["offset"] = column * 4 * work.images
        entries["weight"] = layer.weight[row, column]
        values["ends"] = work.constants.add(np.concatenate(([0], np.cumsum(per_row))).astype("i4"))
        part_rows = split_rows(per_row)
    kind, low, high = bounds_of(layer.bounds)
    work.chosen[layer.name] = "dense" if form == "dense" else "sparse"
    work.add(
        layer.name,
        LinearKernel(work.images, lanes, form, kind),
        values
        | {
            "source": source.address,
            "target": target.address,
            "parts": len(part_rows) - 1,
            "part_rows": work.constants.add(part_rows),
            "entries": work.constants.add(entries, spare=2048),
            "inputs": inputs,
            "bias": work.constants.add(bias),
            "low": low,
            "high": high,
        },
    )


def _pool(work: Assembly, layer: MaxPool | AveragePool) -> None:
    value = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    source = windowed_source(work, layer)
    walk, fields = window_fields(work, layer, source, target)
    kind, scales = "max", 0
    if isinstance(layer, AveragePool):
        kind = "mean"
        scales = work.constants.add(window_scales(layer, value, target), spare=4 * work.lanes)
    taps = len(work.placement.taps[layer.name].steps)
    work.add(layer.name, PoolKernel(walk, kind), fields | {"taps": taps, "scales": scales})


def _global_pool(work: Assembly, layer: GlobalAveragePool) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    if source.packed:
        _copy(work, layer.name, source, target)
        return
    frame = replace(source.geometry, height=source.height, width=source.width, tile=1, phases=1)
    work.add(
        layer.name,
        GlobalPoolKernel(work.lanes, work.images),
        planes_of("source", source)
        | {
            "tile": source.geometry.tile,
            "tiles": source.geometry.tiles,
            "target": target.address,
            "target_vectors": source.geometry.vectors,
            "planes": source.channels,
            "mask": work.constants.add(pixel_mask(frame), ("mask", frame), spare=4 * work.lanes),
            "scale": 1.0 / (source.height * source.width),
        },
    )


def _elementwise(work: Assembly, layer: Add | Affine | Clamp) -> None:
    target = work.placement.values[layer.output]
    inputs = [work.placement.values[name] for name in layer.inputs]
    kind, low, high = bounds_of(layer.bounds)
    arithmetic = {Add: "add", Affine: "affine", Clamp: "clamp"}[type(layer)]
    scales = shifts = 0
    if isinstance(layer, Affine):
        scales = work.constants.add(layer.scale.astype(np.float32))
        shifts = work.constants.add(layer.shift.astype(np.float32))
    packed = target.packed
    masked = target.must_be_clean and not packed
    lanes = work.images if packed else work.lanes
    work.add(
        layer.name,
        MapKernel(lanes, arithmetic, masked, kind),
        planes_of("source", inputs[0])
        | planes_of("other", inputs[-1])
        | planes_of("target", target)
        | {
            "tile": 1 if packed else target.geometry.tile,
            "tiles": 1 if packed else target.geometry.tiles,
            "target_vectors": 1 if packed else target.geometry.vectors,
            "planes": target.channels,
            "scales": scales,
            "shifts": shifts,
            "mask": work.mask(target) if masked else 0,
            "low": low,
            "high": high,
        },
    )


def _concat(work: Assembly, layer: Concat) -> None:
    """What was not made in place is copied there."""
    whole = work.placement.values[layer.output]
    channel = 0
    for name in layer.inputs:
        part = work.placement.values[name]
        if part.inside is not whole or part.channel != channel:
            place = Map(name, part.channels, part.height, part.width, inside=whole, channel=channel)
            place.packed = whole.packed
            _copy(work, layer.name, part, place)
        channel += part.channels


def _flatten(work: Assembly, layer: Flatten) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    _copy(work, layer.name, source, target, flatten=True)


def _softmax(work: Assembly, layer: Softmax) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    places = {"source": source.address, "target": target.address, "features": source.channels}
    work.add(layer.name, SoftmaxKernel(work.images), places)


def bounds_of(bounds: Bounds | None) -> tuple[str, float, float]:
    """(the kernel's name for them, low, high)"""
    if bounds is None or (bounds.low, bounds.high) == (float("-inf"), float("inf")):
        return "none", 0.0, 0.0
    if (bounds.low, bounds.high) == (0.0, float("inf")):
        return "relu", 0.0, 0.0
    return "clamp", float(bounds.low), float(bounds.high)


_WRITERS: dict[type[Layer], Callable[..., None]] = {
    Convolution: _convolution,
    Linear: _linear,
    MaxPool: _pool,
    AveragePool: _pool,
    GlobalAveragePool: _global_pool,
    Add: _elementwise,
    Affine: _elementwise,
    Clamp: _elementwise,
    Concat: _concat,
    Flatten: _flatten,
    Softmax: _softmax,
}
