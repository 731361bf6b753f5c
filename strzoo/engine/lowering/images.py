"""Copies of the caller's images to buffers, and of buffers to the caller's results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strzoo.engine.codegen.packing import PackKernel
from strzoo.engine.ir.fixed import Quantize
from strzoo.engine.ir.graph import Graph
from strzoo.engine.ir.quads import QuantizeQuads
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.lowering.context import LoweringContext
from strzoo.engine.lowering.packing import pack_planes, unpack
from strzoo.engine.lowering.quads import load_quads

_FEATURE_TILE = 64  # vectors of features that a thread copies at once


def load_images(context: LoweringContext, graph: Graph) -> None:
    """Copy the caller's inputs, [n, ...] one after the other for each image, to their buffers.

    Where only fixed point is made of one, that is done at once: its buffer is filled instead.
    """
    values = context.memory.values
    sizes = _bytes_of(context, graph.inputs)
    for name, start in zip(graph.inputs, np.cumsum([0, *sizes]).tolist(), strict=False):
        target, scale = values[name], None
        readers = [layer for layer in graph.layers if name in layer.inputs]
        if not readers and name not in graph.outputs:
            continue
        direct = readers[0] if len(readers) == 1 and name not in graph.outputs else None
        if isinstance(direct, QuantizeQuads):
            context.done.add(direct.name)
            load_quads(context, direct, start, target, values[direct.output])
            continue
        if isinstance(direct, Quantize):
            context.done.add(direct.name)
            target, scale = values[direct.output], 1 / direct.scale
        plane = 4 * target.height * target.width
        source = {"source": start, "source_plane": plane, "source_image": sum(sizes)}
        if target.packed:
            _load_features(context, source, target)
            continue
        places = [_image_places(target)]
        pack_planes(context, "input", "input", source, places, target, target.channels, scale)


def _image_places(target: Buffer) -> np.ndarray:
    """Bytes from the start of a plane of an image to its pixels, [height, width]."""
    rows, columns = np.indices((target.height, target.width))
    return (rows * target.width + columns) * 4


def store_results(context: LoweringContext, graph: Graph) -> None:
    """Copy the outputs' buffers to the caller's results, [n, ...] one after the other."""
    sizes = _bytes_of(context, graph.outputs)
    for name, start in zip(graph.outputs, np.cumsum([0, *sizes]).tolist(), strict=False):
        source = context.memory.values[name]
        plane = 4 * source.height * source.width
        target = {"target": start, "target_plane": plane, "target_image": sum(sizes)}
        unpack(context, "output", "output", source, target)


def _bytes_of(context: LoweringContext, names: Sequence[str]) -> list[int]:
    """Of one image's values."""
    buffers = [context.memory.values[name] for name in names]
    return [4 * buffer.channels * buffer.height * buffer.width for buffer in buffers]


def _load_features(context: LoweringContext, source: dict[str, int], target: Buffer) -> None:
    """Copy the features of each image, which lie next to those of the group's other images, as one
    plane of vectors; the last one is filled up with zeros."""
    images, lanes = context.images, context.lanes
    count = target.channels * images
    vectors = -(-count // lanes)
    tile = min(vectors, _FEATURE_TILE)
    table = np.zeros(vectors * lanes, np.int32)
    table[:count] = np.arange(count) // images * 4
    mask = np.where(np.arange(len(table)) < count, np.uint32(2**32 - 1), np.uint32(0))
    masked = count < len(table)
    fields: dict[str, int | float] = {
        **source,
        "target": target.address,
        "target_plane": 4 * lanes * tile,
        "target_tile": 4 * lanes * tile,
        "piece_tiles": -(-vectors // tile),
        "pitch": target.root.pitch,
        "planes": 1,
        "phases": 1,
        "tile": tile,
        "tiles": -(-vectors // tile),
        "target_vectors": vectors,
        "places": context.constants.add(table),
        "mask": context.constants.add(mask) if masked else 0,
        "fill": 0.0,
    }
    context.add("input", PackKernel(lanes, images, "input", masked, filled=False), fields)
