"""Maps and layers -> steps: which kernel runs each layer, with which numbers and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from strzoo.engine.codegen.elementwise import MapKernel, SoftmaxKernel
from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.linear import LinearKernel
from strzoo.engine.codegen.rows import REACH
from strzoo.engine.codegen.windows import PoolKernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    AveragePool,
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
from strzoo.engine.layout.buffers import Map
from strzoo.engine.layout.masks import pixel_mask, window_scales
from strzoo.engine.layout.memory_plan import Placement
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.context import (
    Assembly,
    bounds_of,
    pieces_of,
    planes_of,
    window_fields,
)
from strzoo.engine.lowering.convolutions import ConvolutionWriter
from strzoo.engine.lowering.copies import copy_pixels, enter, flatten, leave, windowed_source
from strzoo.engine.lowering.weights import split_rows

DENSE_LINEAR = 0.33  # a fully connected layer denser than this is read whole


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
    enter(work, placement.values[graph.input])
    for layer in graph.layers:
        _WRITERS[type(layer)](work, layer)
    leave(work, placement.values[graph.output])
    return work


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
    weights = layer.weight.astype(np.float32)
    dense = work.images == 1 and len(row) > DENSE_LINEAR * weights.size
    wide = not dense and inputs > REACH
    per_row = np.full(rows, inputs) if dense else np.bincount(row, minlength=rows)
    part_rows = split_rows(per_row)
    ends = entries = 0
    if not dense:
        weights = weights[row, column]
        ends = work.constants.add(np.concatenate(([0], np.cumsum(per_row))).astype(np.int32))
        entries = work.constants.add(column.astype(np.int32 if wide else np.uint16), spare=64)
    kind, low, high = bounds_of(layer.bounds)
    work.chosen[layer.name] = "dense" if dense else "sparse"
    work.add(
        layer.name,
        LinearKernel(work.images, work.lanes if dense else 1, dense, wide, kind),
        {
            "source": source.address,
            "target": target.address,
            "parts": len(part_rows) - 1,
            "part_rows": work.constants.add(part_rows),
            "ends": ends,
            "entries": entries,
            "weights": work.constants.add(weights, spare=64),
            "inputs": inputs,
            "bias": work.constants.add(layer.bias.astype(np.float32)),
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
        copy_pixels(work, layer.name, source, target)
        return
    frame = replace(source.geometry, height=source.height, width=source.width, tile=1, phases=1)
    work.add(
        layer.name,
        GlobalPoolKernel(work.lanes, work.images),
        planes_of("source", source)
        | pieces_of(source)
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
        | pieces_of(target)
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
            copy_pixels(work, layer.name, part, place)
        channel += part.channels


def _flatten(work: Assembly, layer: Flatten) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    flatten(work, layer.name, source, target)


def _softmax(work: Assembly, layer: Softmax) -> None:
    source = work.placement.values[layer.inputs[0]]
    target = work.placement.values[layer.output]
    places = {"source": source.address, "target": target.address, "features": source.channels}
    work.add(layer.name, SoftmaxKernel(work.images), places)


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
