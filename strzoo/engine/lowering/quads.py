"""Copies into maps of 8 bits, and out of them."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.packing import ROW
from strzoo.engine.codegen.quad_packing import QuadPackKernel
from strzoo.engine.codegen.quads import QUAD
from strzoo.engine.ir.quads import DequantizeQuads, QuantizeQuads
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.lowering.context import LoweringContext, pieces_of, planes_of
from strzoo.engine.lowering.packing import has_rows, pixel_bytes


def convert_quads(
    context: LoweringContext,
    layer: QuantizeQuads | DequantizeQuads,
    source: Buffer,
    target: Buffer,
    channels: int,
) -> None:
    """Copy the pixels of a map into 8 bits, or out of them."""
    places = pixel_bytes(source, *np.indices((source.height, source.width)))
    fields = {"source": source.address, "source_plane": source.plane}
    scale = 1 / layer.scale if isinstance(layer, QuantizeQuads) else layer.scale
    pack_quads(context, layer.name, "arena", fields, places, target, channels, scale, layer.zero)


def pack_quads(
    context: LoweringContext,
    layer: str,
    origin: str,
    source: dict[str, int],
    places: np.ndarray,
    target: Buffer,
    channels: int,
    scale: float,
    zero: int | None = None,
) -> None:
    """Args: `places` are the bytes [rows, columns] from the start of a plane of the source to its
    pixels; numbers are multiplied by `scale`. `zero` is the target's by default."""
    layout, kind = target.layout, "quantize" if target.quads else "dequantize"
    table = np.zeros(layout.vectors * layout.lanes, np.int32)
    mask = np.zeros(len(table), np.uint32)
    there = layout.places(*np.indices(places.shape))
    table[there], mask[there] = places, np.iinfo(np.uint32).max
    masked = target.must_be_clean and not mask.all()
    parts = channels if target.quads and channels < QUAD else QUAD
    rows = target.quads and bool(mask.all()) and has_rows(table[None], layout, ROW)
    depth = parts if target.quads else 1
    (gathered,) = context.reserve(0 if rows else 4 * depth * layout.tile * layout.lanes)
    number = target.zero if zero is None else zero
    context.add(
        layer,
        QuadPackKernel(context.lanes, kind, origin, masked, number, parts, rows),
        {
            **source,
            **planes_of("target", target),
            **pieces_of(target),
            "channels": channels,
            "planes": target.channels,
            "tile": layout.tile,
            "tiles": layout.tiles,
            "target_vectors": layout.vectors,
            "places": context.constants.add(table),
            "mask": context.constants.add(mask) if masked else 0,
            "gathered": gathered,
            "scale": scale,
        },
    )
