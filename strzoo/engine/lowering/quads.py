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
    channel = np.arange(channels)
    if isinstance(layer, QuantizeQuads):
        scale, starts = 1 / layer.scale, channel * source.plane
    else:
        scale, starts = layer.scale, channel // QUAD * source.plane + channel % QUAD
    pack_quads(
        context, layer.name, "arena", source.address, starts, places, target, scale, layer.zero
    )


def load_quads(
    context: LoweringContext, layer: QuantizeQuads, start: int, source: Buffer, target: Buffer
) -> None:
    """Copy the pixels of the caller's image into 8 bits.

    Args:
        start: bytes from the start of the inputs to the image.
        source: of the size of the image.
    """
    row, column = np.indices((source.height, source.width))
    places = 4 * (row * source.width + column)
    parts, stride = layer.parts, 2
    if not parts:
        parts, stride = tuple((channel, 0, 0) for channel in range(source.channels)), 1
    plane = places.size
    starts = np.array([4 * (c * plane + y * source.width + x) for c, y, x in parts])
    pack_quads(
        context, "input", "input", start, starts, places[::stride, ::stride], target,
        1 / layer.scale, stride=stride,
    )  # fmt: skip


def pack_quads(
    context: LoweringContext,
    layer: str,
    origin: str,
    source: int,
    starts: np.ndarray,
    places: np.ndarray,
    target: Buffer,
    scale: float,
    zero: int | None = None,
    stride: int = 1,
) -> None:
    """Copy numbers, multiplied by `scale`.

    Args:
        source: where they are, in bytes.
        starts: bytes from there to each channel, or to what becomes one.
        places: bytes from there to each pixel, [rows, columns].
        zero: the target's by default.
        stride: floats from pixel to pixel.
    """
    layout, kind = target.layout, "quantize" if target.quads else "dequantize"
    table = np.zeros(layout.vectors * layout.lanes, np.int32)
    mask = np.zeros(len(table), np.uint32)
    there = layout.places(*np.indices(places.shape))
    table[there], mask[there] = places, np.iinfo(np.uint32).max
    masked = target.must_be_clean and not mask.all()
    channels = len(starts)
    parts = channels if target.quads and channels < QUAD else QUAD
    rows = target.quads and bool(mask.all()) and has_rows(table[None], layout, ROW, stride)
    # Channels that there are not repeat the last one; their weights are zero.
    spare = -channels % QUAD if target.quads else 0
    starts = np.pad(starts, (0, spare), mode="edge")
    depth = parts if target.quads else 1
    (gathered,) = context.reserve(0 if rows else 4 * depth * layout.tile * layout.lanes)
    number = target.zero if zero is None else zero
    stride = stride if rows else 1
    context.add(
        layer,
        QuadPackKernel(context.lanes, kind, origin, masked, number, parts, rows, stride),
        {
            "source": source,
            "starts": context.constants.add(starts.astype(np.int64)),
            **planes_of("target", target),
            **pieces_of(target),
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
