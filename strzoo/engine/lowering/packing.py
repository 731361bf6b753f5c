"""Copies between layouts, within the arena and over its borders."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.fixed_packing import ROW as FIXED_ROW
from strzoo.engine.codegen.fixed_packing import FixedPackKernel
from strzoo.engine.codegen.packing import ROW, PackKernel, UnpackKernel, row_starts
from strzoo.engine.codegen.permuting import PermuteKernel, can_permute
from strzoo.engine.ir.graph import AveragePool, Convolution, MaxPool
from strzoo.engine.layout.buffers import Buffer, Layout
from strzoo.engine.lowering.context import LoweringContext, pieces_of, planes_of

# Vectors of the source for each number of a vector of the target: more take longer than copying
# numbers one by one.
MOST_PERMUTED = 0.45
_PIXELWISE = ("source_image", "places", "mask")  # operands of copies pixel by pixel alone


def flatten(context: LoweringContext, layer: str, source: Buffer, target: Buffer) -> None:
    """Copy the pixels of each plane one after the other, as features."""
    size = 4 * context.images * source.height * source.width
    fields = {"target": target.address, "target_plane": size, "target_image": 0}
    unpack(context, layer, "arena", source, fields)


def copy_pixels(
    context: LoweringContext,
    layer: str,
    source: Buffer,
    target: Buffer,
    *,
    strides: tuple[int, int] = (1, 1),
    phases: tuple[tuple[int, int], ...] = ((0, 0),),
    scale: np.ndarray | None = None,
) -> None:
    """Copy the pixels of `source` to `target`; with strides, those of each phase to its planes;
    into or out of fixed point, multiplied by `scale` [channels]."""
    if target.packed:
        flatten(context, layer, source, target)
        return
    places = []
    for y, x in phases:
        rows = max(-(-(source.height - y) // strides[0]), 0)
        columns = max(-(-(source.width - x) // strides[1]), 0)
        row, column = np.indices((rows, columns))
        places.append(pixel_bytes(source, row * strides[0] + y, column * strides[1] + x))
    fields = {"source": source.address, "source_plane": source.plane, "source_image": 0}
    pack_planes(context, layer, "arena", fields, places, target, source.channels, scale)


def windowed_source(context: LoweringContext, layer: Convolution | MaxPool | AveragePool) -> Buffer:
    """The buffer that the layer's window reads; filled by a copy if it is not the input itself."""
    value = context.memory.values[layer.inputs[0]]
    source = context.memory.sources[layer.name]
    if source is not value and id(source) not in context.copied:
        context.copied.add(id(source))
        taps = context.memory.taps[layer.name]
        copy_pixels(context, layer.name, value, source, strides=taps.strides, phases=taps.phases)
    return source


def pack_planes(
    context: LoweringContext,
    layer: str,
    origin: str,
    source: dict[str, int],
    places: list[np.ndarray],
    target: Buffer,
    planes: int,
    scale: np.ndarray | None = None,
) -> None:
    """Args: `places` holds for each phase the bytes [rows, columns] from the start of a plane of
    the source to its pixels."""
    layout = target.layout
    floats = layout.vectors * layout.lanes
    table = np.zeros((len(places), floats), np.int32)
    mask = np.zeros((len(places), floats), np.uint32 if layout.item == 4 else np.uint16)
    for phase, here in enumerate(places):
        there = layout.places(*np.indices(here.shape))
        for image in range(layout.images):
            table[phase, there + image] = here
            mask[phase, there + image] = np.iinfo(mask.dtype).max
    whole = bool(mask.all())
    masked = target.must_be_clean and not whole
    fields = {
        **source,
        **planes_of("target", target),
        **pieces_of(target),
        "planes": planes,
        "phases": len(places),
        "tile": layout.tile,
        "tiles": layout.tiles,
        "target_vectors": layout.vectors,
        "places": context.constants.add(table),
        "mask": context.constants.add(mask) if masked else 0,
        "fill": target.root.fill,
    }
    converted = scale is not None
    rows = whole and not (target.fixed or converted) and has_rows(table, layout, ROW)
    within = origin == "arena" and not (converted or rows)
    if within and _permute(context, layer, fields, table, mask):
        return
    if target.fixed or scale is not None:
        del fields["source_image"]
        kind = "copy"
        if scale is not None:
            kind = "quantize" if target.fixed else "dequantize"
            fields["scales"] = context.constants.add(scale.astype(np.float32))
        else:
            fields["scales"] = 0
        rows = kind == "quantize" and whole and has_rows(table, layout, FIXED_ROW)
        size = 0 if rows else layout.tile * layout.lanes * 4
        (fields["gathered"],) = context.reserve(size)
        context.add(layer, FixedPackKernel(context.lanes, kind, origin, masked, rows), fields)
        return
    filled = target.root.fill != 0 and not rows
    kernel = PackKernel(context.lanes, context.images, origin, masked, filled, rows)
    context.add(layer, kernel, fields)


def has_rows(table: np.ndarray, layout: Layout, row: int, stride: int = 1) -> bool:
    """Whether `row` pixels of each lane, `stride` floats apart, can be copied at once.

    Args:
        table: bytes from the start of the source's plane, [phases, numbers of a plane].
    """
    starts = row_starts(layout.vectors, layout.tile, row)
    if layout.images != 1 or layout.lanes % row or starts is None:
        return False
    places = table.reshape(len(table), layout.vectors, layout.lanes)
    steps = [places[:, starts + k] - places[:, starts] == 4 * stride * k for k in range(1, row)]
    return bool(np.all(steps))


def _permute(
    context: LoweringContext,
    layer: str,
    fields: dict[str, int | float],
    table: np.ndarray,
    mask: np.ndarray,
) -> bool:
    """Add a copy by whole vectors, if that is possible and faster.

    Args:
        fields: of the copy pixel by pixel.
        table: bytes from the start of the source's plane, [phases, numbers of a plane].
        mask: of the numbers' size, zero where there is no pixel.
    """
    item, vector = mask.itemsize, 4 * context.lanes
    count = vector // item
    aligned = fields["source"] % vector == fields["source_plane"] % vector == 0
    possible = context.hardware.permutes and can_permute(context.lanes, fixed=item == 2)
    if context.images != 1 or not aligned or not possible:
        return False
    place = table.reshape(-1, count)
    target, lane = np.nonzero(mask.reshape(-1, count))
    source = place[target, lane] // vector
    # An entry for each vector of the target and vector of the source that it takes numbers from.
    pairs, entry = np.unique(np.stack((target, source), 1), axis=0, return_inverse=True)
    if len(pairs) > MOST_PERMUTED * count * len(place):
        return False
    kind = np.dtype(f"<i{item}")
    numbers = np.zeros((len(pairs), count), kind)
    numbers[entry.reshape(-1), lane] = place[target, lane] % vector // item + np.iinfo(kind).min
    patterns, pattern = np.unique(numbers, axis=0, return_inverse=True)
    add = context.constants.add
    ends = np.searchsorted(pairs[:, 0], np.arange(len(place) + 1))
    kept = {name: value for name, value in fields.items() if name not in _PIXELWISE}
    context.add(
        layer,
        PermuteKernel(context.lanes, item == 2),
        {
            **kept,
            "ends": add(ends.astype(np.int32)),
            "sources": add((pairs[:, 1] * vector).astype(np.int32)),
            "patterns": add(pattern.reshape(-1).astype(np.int32)),
            "pattern_count": len(patterns),
            "numbers": add(patterns),
        },
    )
    return True


def unpack(
    context: LoweringContext,
    layer: str,
    destination: str,
    source: Buffer,
    target: dict[str, int],
    chosen: np.ndarray | None = None,
) -> None:
    """Args: `chosen` are the features that are taken, all of them by default."""
    rows, columns = np.indices((source.height, source.width))
    places, planes, plane = pixel_bytes(source, rows, columns), source.channels, source.plane
    if source.packed:
        # Features are planes of one pixel; all of them are copied as one plane.
        taken = np.arange(source.channels) if chosen is None else chosen
        places, planes = taken * plane, 1
    context.add(
        layer,
        UnpackKernel(context.lanes, context.images, destination),
        target
        | {
            "source": source.address,
            "source_plane": plane,
            "planes": planes,
            "pixels": places.size,
            "places": context.constants.add(places.astype(np.int32)),
        },
    )


def pixel_bytes(buffer: Buffer, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bytes from the start of a plane to pixels of it."""
    layout = buffer.layout
    if not layout.tile:
        return np.zeros_like(rows)
    return buffer.bytes(layout.places(rows, columns))
