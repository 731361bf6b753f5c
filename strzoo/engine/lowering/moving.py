"""Layers that take pixels of a map, once or in sums, as kernels with their operands."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.resampling import ResampleKernel
from strzoo.engine.ir.graph import Rearrange, Resample
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.lowering.context import LoweringContext, pieces_of, planes_of
from strzoo.engine.lowering.packing import copy_pixels, pack_planes, pixel_bytes, unpack


def pick_pixels(
    context: LoweringContext,
    layer: str,
    source: Buffer,
    target: Buffer,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Copy (rows[y], columns[x]) of each plane of `source` to (y, x) of `target`."""
    if target.packed:
        copy_pixels(context, layer, source, target)
        return
    places = pixel_bytes(source, *np.meshgrid(rows, columns, indexing="ij"))
    fields = {"source": source.address, "source_plane": source.plane, "source_image": 0}
    pack_planes(context, layer, "arena", fields, [places], target, source.channels)


def rearrange_pixels(
    context: LoweringContext, layer: Rearrange, source: Buffer, target: Buffer
) -> None:
    """Copy the numbers of `source` to where `layer` has them in `target`."""
    if target.packed:  # as the source then is
        chosen = np.add.outer(np.arange(layer.repeats) * layer.step, layer.places).reshape(-1)
        fields = {"target": target.address, "target_plane": 0, "target_image": 0}
        unpack(context, layer.name, "arena", source, fields, chosen)
        return
    planes, pixels = np.divmod(layer.places, source.height * source.width)
    places = pixel_bytes(source, *np.divmod(pixels, source.width)) + planes * source.plane
    plane = layer.step * source.plane
    fields = {"source": source.address, "source_plane": plane, "source_image": 0}
    pack_planes(context, layer.name, "arena", fields, list(places), target, layer.repeats)


def resample_pixels(context: LoweringContext, layer: Resample) -> None:
    """Each pixel as the weighted sum of those that its row and its column name."""
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    layout = target.layout
    taps = len(layer.rows) * len(layer.columns)
    places = np.zeros((layout.vectors, taps, layout.lanes), np.int32)
    weights = np.zeros(places.shape, np.float32)
    vector, lane = np.divmod(
        layout.places(*np.indices((target.height, target.width))), layout.lanes
    )
    pairs = np.ndindex(len(layer.rows), len(layer.columns))
    for tap, (i, j) in enumerate(pairs):
        here = pixel_bytes(source, *np.meshgrid(layer.rows[i], layer.columns[j], indexing="ij"))
        weight = np.multiply.outer(layer.row_weights[i], layer.column_weights[j])
        for image in range(layout.images):
            places[vector, tap, lane + image] = here
            weights[vector, tap, lane + image] = weight
    # An entry whose pixels are the vector of the source at the first of them, in its order.
    own = places + np.arange(layout.lanes) % layout.images * 4
    whole = (own == own[..., :1] + np.arange(layout.lanes) * 4).all(-1)
    ends, whole_ends = (
        np.concatenate(([0], np.cumsum(kind.sum(1)))).astype(np.int32) for kind in (~whole, whole)
    )
    add = context.constants.add
    context.add(
        layer.name,
        ResampleKernel(context.lanes, context.images, target.must_be_clean),
        {
            "source": source.address,
            "source_plane": source.plane,
            **planes_of("target", target),
            **pieces_of(target),
            "tile": layout.tile,
            "tiles": layout.tiles,
            "target_vectors": layout.vectors,
            "planes": target.channels,
            "whole_ends": add(whole_ends),
            "ends": add(ends),
            "wholes": add(places[whole][:, 0]),
            "places": add(places[~whole]),
            "whole_weights": add(weights[whole]),
            "weights": add(weights[~whole]),
            "mask": context.mask(target),
        },
    )
