"""Maps and layers -> steps: which kernel runs each layer, with which numbers and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from strzoo.engine.convolutions import ConvolutionWriter
from strzoo.engine.emission.elementwise import MapKernel, SoftmaxKernel
from strzoo.engine.emission.linear import LinearKernel
from strzoo.engine.emission.moving import ClearKernel, CopyKernel, EnterKernel, LeaveKernel
from strzoo.engine.emission.windows import GlobalPoolKernel, PoolKernel
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
    _cleared: set[int] = field(default_factory=set)

    @property
    def images(self) -> int:
        return self.placement.images

    @property
    def lanes(self) -> int:
        return self.hardware.lanes

    def mask(self, map_: Map) -> int:
        """Constants offset of the map's pixel mask."""
        frame = map_.geometry
        key = ("mask", map_.height, map_.width, frame.pitch)
        return self.constants.add(
            pixel_mask(map_.height, map_.width, frame, self.lanes), key, spare=4 * self.lanes
        )

    def vectors(self, map_: Map) -> int:
        return map_.geometry.flat(map_.height, map_.width, self.lanes)

    def clear(self, layer: str, map_: Map, *, wholly: bool = False) -> None:
        """Clear what must be clear around the pixels, before the first of them are written.

        Kernels that run flat over planes clear the gaps between rows themselves; where others
        write, all of the planes must be cleared (`wholly`)."""
        root = map_.root
        if not self.first_use(root):
            return
        frame = root.geometry
        wholly = wholly or any(m.inside is not None and m.root is root for m in self.placement.maps)
        before = 4 * frame.before
        after = before + 4 * (frame.flat(root.height, root.width, self.lanes) * self.lanes)
        plane = 4 * frame.plane
        step = self.add(
            layer,
            ClearKernel(self.lanes),
            {
                "planes": root.channels * frame.phases,
                "target": 4 * root.place,
                "target_plane": plane,
                "head": plane if wholly else before,
                "tail": plane if wholly else after,
                "tail_bytes": 0 if wholly else plane - after,
                "value": root.fill,
            },
        )
        # The kernel that follows writes elsewhere, unless all was cleared.
        step.wait = wholly

    def first_use(self, root: Map) -> bool:
        """Whether `root` must be clear and is about to be written for the first time."""
        if not root.clean or id(root) in self._cleared:
            return False
        self._cleared.add(id(root))
        return True

    def plane_walk(self, layer: str, source: Map, target: Map) -> tuple[int, dict[str, int]]:
        """How a window kernel goes over planes: its stride, and the fields that say the rest."""
        taps = self.placement.taps[layer]
        if taps.strides == (1, 1) or source is not self.placement.direct.get(layer):
            return 1, {
                "vectors": self.vectors(target),
                "rows": 0,
                "source_row": 0,
                "target_row": 0,
            }
        return taps.strides[1], {
            "vectors": -(-target.width * self.images // self.lanes),
            "rows": target.height,
            "source_row": source.geometry.row * taps.strides[0],
            "target_row": target.geometry.row,
        }

    def add(self, layer: str, kernel: object, values: Mapping[str, int | float]) -> Step:
        step = Step(layer, kernel, dict(values))  # type: ignore[arg-type]
        self.steps.append(step)
        return step


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
    work.clear("input", target, wholly=True)
    work.add(
        "input",
        EnterKernel(work.images),
        {
            "channels": target.channels,
            "rows": target.height,
            "columns": target.width,
            "target": target.address,
            "target_plane": target.plane_bytes,
            "target_row": target.geometry.row,
        },
    )


def _leave(work: Assembly, source: Map) -> None:
    work.add(
        "output",
        LeaveKernel(work.images),
        {
            "source": source.address,
            "source_plane": source.plane_bytes,
            "source_row": source.geometry.row,
            "planes": source.channels,
            "rows": source.height,
            "columns": source.width,
        },
    )


def _copy(
    work: Assembly, layer: str, source: Map, target: Map, row_bytes: int, plane_bytes: int
) -> None:
    """All pixels of `source` to `target`'s place, rows and planes so many bytes apart."""
    work.clear(layer, target, wholly=True)
    table = np.asarray([0, 0, source.height, source.width], np.int64)
    work.add(
        layer,
        CopyKernel(work.lanes, work.images),
        {
            "planes": source.channels,
            "source": source.address,
            "source_plane": source.plane_bytes * source.geometry.phases,
            "source_row": source.geometry.row,
            "target": target.address,
            "target_plane": plane_bytes,
            "target_row": row_bytes,
            "phases": 1,
            "table": work.constants.add(table),
            "clear": 0,
            "clear_from": 0,
            "value": 0.0,
        },
    )


def windowed_source(work: Assembly, layer: Convolution | MaxPool | AveragePool) -> Map:
    """The map that the layer's window reads; made by a copy if it is not the input itself."""
    value = work.placement.values[layer.inputs[0]]
    source = work.placement.sources[layer.name]
    if source is value or id(source) in work._copied:
        return source
    work._copied.add(id(source))
    taps = work.placement.taps[layer.name]
    here, there = value.geometry, source.geometry
    table = []
    for index, (y, x) in enumerate(taps.phases):
        rows = -(-(value.height - y) // taps.strides[0])
        columns = -(-(value.width - x) // taps.strides[1])
        start = y * here.row + x * 4 * work.images
        table.append((start, index * 4 * there.plane, max(rows, 0), max(columns, 0)))
    first = work.first_use(source)
    work.add(
        layer.name,
        CopyKernel(work.lanes, work.images, taps.strides[1]),
        {
            "planes": value.channels,
            "source": value.address,
            "source_plane": value.plane_bytes,
            "source_row": here.row * taps.strides[0],
            "target": source.address,
            "target_plane": source.plane_bytes * len(taps.phases),
            "target_row": there.row,
            "phases": len(table),
            "table": work.constants.add(np.asarray(table, np.int64)),
            "clear": source.plane_bytes * len(taps.phases) if first else 0,
            "clear_from": 4 * there.before,
            "value": source.fill,
        },
    )
    return source


def _convolution(work: Assembly, layer: Convolution) -> None:
    if work.placement.values[layer.inputs[0]].packed:
        _convolve_vector(work, layer)
        return
    source = windowed_source(work, layer)
    target = work.placement.values[layer.output]
    work.clear(layer.name, target)
    ConvolutionWriter(work, layer, source, target).write()


def _convolve_vector(work: Assembly, layer: Convolution) -> None:
    """A convolution of a 1x1 map: only the tap over the pixel counts."""
    out, per_group = layer.weight.shape[:2]
    weight = np.zeros((out, per_group * layer.groups), np.float32)
    taps = [
        pad // dilation
        for pad, dilation in zip(layer.window.pads[:2], layer.window.dilations, strict=True)
    ]
    for row in range(out):
        first = row // (out // layer.groups) * per_group
        weight[row, first : first + per_group] = layer.weight[row, :, taps[0], taps[1]]
    residual = layer.inputs[1:]
    bounds = None if residual else layer.bounds
    linear = Linear(layer.name, layer.inputs[:1], layer.output, weight, layer.bias, bounds)
    _linear(work, linear)
    if residual:
        _elementwise(work, Add(layer.name, (layer.output, *residual), layer.output, layer.bounds))


def _linear(work: Assembly, layer: Linear) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    assert source.packed and target.packed, layer.name
    rows, inputs = layer.weight.shape
    row, column = np.nonzero(layer.weight)
    values: dict[str, int | float] = {}
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
    if value.packed:  # of one pixel: the pixel
        _copy(work, layer.name, value, target, target.geometry.row, target.plane_bytes)
        return
    source = windowed_source(work, layer)
    work.clear(layer.name, target)
    taps = work.placement.taps[layer.name]
    frame = source.geometry
    offsets = np.asarray(taps.phase) * source.plane_bytes + taps.offsets(frame)
    kind = "max" if isinstance(layer, MaxPool) else "mean"
    scales = 0
    if isinstance(layer, AveragePool):
        scales = work.constants.add(
            window_scales(layer, value, target, target.geometry, work.lanes), spare=4 * work.lanes
        )
    masked = target.root.clean
    stride, rows = work.plane_walk(layer.name, source, target)
    work.add(
        layer.name,
        PoolKernel(work.lanes, kind, work.images, stride, masked),
        rows
        | {
            "source": source.address,
            "source_plane": source.plane_bytes * len(taps.phases),
            "target": target.address,
            "target_plane": target.plane_bytes,
            "planes": target.channels,
            "taps": len(offsets),
            "offsets": work.constants.add(offsets.astype(np.int32)),
            "scales": scales,
            "mask": work.mask(target) if masked else 0,
        },
    )


def _global_pool(work: Assembly, layer: GlobalAveragePool) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    if source.packed:
        _copy(work, layer.name, source, target, target.geometry.row, target.plane_bytes)
        return
    work.add(
        layer.name,
        GlobalPoolKernel(work.lanes, work.images),
        {
            "source": source.address,
            "source_plane": source.plane_bytes,
            "target": target.address,
            "vectors": work.vectors(source),
            "planes": source.channels,
            "mask": work.mask(source),
            "scale": 1.0 / (source.height * source.width),
        },
    )


def _elementwise(work: Assembly, layer: Add | Affine | Clamp) -> None:
    target = work.placement.values[layer.output]
    inputs = [work.placement.values[name] for name in layer.inputs]
    other = inputs[-1]
    kind, low, high = bounds_of(layer.bounds)
    masked = target.root.clean
    work.clear(layer.name, target)
    arithmetic = {Add: "add", Affine: "affine", Clamp: "clamp"}[type(layer)]
    scales = shifts = 0
    if isinstance(layer, Affine):
        scales = work.constants.add(layer.scale.astype(np.float32))
        shifts = work.constants.add(layer.shift.astype(np.float32))
    lanes = work.images if target.packed else work.lanes
    work.add(
        layer.name,
        MapKernel(lanes, arithmetic, masked, kind),
        {
            "source": inputs[0].address,
            "source_plane": inputs[0].plane_bytes,
            "other": other.address,
            "other_plane": other.plane_bytes,
            "target": target.address,
            "target_plane": target.plane_bytes,
            "vectors": 1 if target.packed else work.vectors(target),
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
            _copy(work, layer.name, part, place, place.geometry.row, place.plane_bytes)
        channel += part.channels


def _flatten(work: Assembly, layer: Flatten) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    pixel = 4 * work.images
    plane = source.height * source.width * pixel
    _copy(work, layer.name, source, target, source.width * pixel, plane)


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
