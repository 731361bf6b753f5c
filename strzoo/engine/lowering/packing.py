"""Copies between layouts: images to a buffer, buffer to buffer, and a buffer to results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strzoo.engine.codegen.fixed_packing import FixedPackKernel
from strzoo.engine.codegen.packing import PackKernel, UnpackKernel
from strzoo.engine.codegen.permuting import PERMUTED, PermuteKernel
from strzoo.engine.codegen.quad_packing import QuadPackKernel
from strzoo.engine.ir.fixed import Quantize
from strzoo.engine.ir.graph import AveragePool, Convolution, Graph, MaxPool, Rearrange
from strzoo.engine.ir.quads import DequantizeQuads, QuantizeQuads
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.lowering.context import LoweringContext, pieces_of, planes_of

_FEATURE_TILE = 64  # vectors of features that a thread copies at once
MOST_PERMUTED = 12  # vectors of the source for one of the target; more take longer than pixels
_PIXELWISE = ("source_image", "places", "mask")  # operands of copies pixel by pixel alone


def load_images(context: LoweringContext, graph: Graph) -> None:
    """Copy the caller's inputs, [n, ...] one after the other for each image, to their buffers.

    Where only fixed point is made of one, that is done at once: its buffer is filled instead.
    """
    values = context.memory.values
    sizes = _bytes_of(context, graph.inputs)
    for name, start in zip(graph.inputs, np.cumsum([0, *sizes]).tolist(), strict=False):
        target, scale = values[name], None
        channels = graph.shapes[name][0]
        readers = [layer for layer in graph.layers if name in layer.inputs]
        if not readers and name not in graph.outputs:
            continue
        direct = readers[0] if len(readers) == 1 and name not in graph.outputs else None
        if isinstance(direct, QuantizeQuads):
            context.done.add(direct.name)
            pack_quads(
                context, "input", "input",
                {"source": start, "source_plane": 4 * target.height * target.width},
                _image_places(target), values[direct.output], channels, 1 / direct.scale,
            )  # fmt: skip
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
        _pack(context, "input", "input", source, places, target, target.channels, scale)


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
        _unpack(context, "output", "output", source, target)


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


def flatten(context: LoweringContext, layer: str, source: Buffer, target: Buffer) -> None:
    """Copy the pixels of each plane one after the other, as features."""
    size = 4 * context.images * source.height * source.width
    fields = {"target": target.address, "target_plane": size, "target_image": 0}
    _unpack(context, layer, "arena", source, fields)


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
        places.append(_pixel_bytes(source, row * strides[0] + y, column * strides[1] + x))
    fields = {"source": source.address, "source_plane": source.plane, "source_image": 0}
    _pack(context, layer, "arena", fields, places, target, source.channels, scale)


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
    places = _pixel_bytes(source, *np.meshgrid(rows, columns, indexing="ij"))
    fields = {"source": source.address, "source_plane": source.plane, "source_image": 0}
    _pack(context, layer, "arena", fields, [places], target, source.channels)


def rearrange_pixels(
    context: LoweringContext, layer: Rearrange, source: Buffer, target: Buffer
) -> None:
    """Copy the numbers of `source` to where `layer` has them in `target`."""
    if target.packed:  # as the source then is
        chosen = np.add.outer(np.arange(layer.repeats) * layer.step, layer.places).reshape(-1)
        fields = {"target": target.address, "target_plane": 0, "target_image": 0}
        _unpack(context, layer.name, "arena", source, fields, chosen)
        return
    planes, pixels = np.divmod(layer.places, source.height * source.width)
    places = _pixel_bytes(source, *np.divmod(pixels, source.width)) + planes * source.plane
    plane = layer.step * source.plane
    fields = {"source": source.address, "source_plane": plane, "source_image": 0}
    _pack(context, layer.name, "arena", fields, list(places), target, layer.repeats)


def convert_quads(
    context: LoweringContext,
    layer: QuantizeQuads | DequantizeQuads,
    source: Buffer,
    target: Buffer,
    channels: int,
) -> None:
    """Copy the pixels of a map into 8 bits, or out of them."""
    places = _pixel_bytes(source, *np.indices((source.height, source.width)))
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
    depth = 4 if target.quads else 1
    (gathered,) = context.reserve(4 * depth * layout.tile * layout.lanes)
    context.add(
        layer,
        QuadPackKernel(context.lanes, kind, origin, masked, target.zero if zero is None else zero),
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


def windowed_source(context: LoweringContext, layer: Convolution | MaxPool | AveragePool) -> Buffer:
    """The buffer that the layer's window reads; filled by a copy if it is not the input itself."""
    value = context.memory.values[layer.inputs[0]]
    source = context.memory.sources[layer.name]
    if source is not value and id(source) not in context.copied:
        context.copied.add(id(source))
        taps = context.memory.taps[layer.name]
        copy_pixels(context, layer.name, value, source, strides=taps.strides, phases=taps.phases)
    return source


def _pack(
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
    masked = target.must_be_clean and not mask.all()
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
    if target.fixed and scale is None and _permute(context, layer, fields, table, mask):
        return
    if target.fixed or scale is not None:
        del fields["source_image"]
        kind = "copy"
        if scale is not None:
            kind = "quantize" if target.fixed else "dequantize"
            fields["scales"] = context.constants.add(scale.astype(np.float32))
        else:
            fields["scales"] = 0
        (fields["gathered"],) = context.reserve(layout.tile * layout.lanes * 4)
        context.add(layer, FixedPackKernel(context.lanes, kind, origin, masked), fields)
        return
    kernel = PackKernel(context.lanes, context.images, origin, masked, target.root.fill != 0)
    context.add(layer, kernel, fields)


def _permute(
    context: LoweringContext,
    layer: str,
    fields: dict[str, int | float],
    table: np.ndarray,
    mask: np.ndarray,
) -> bool:
    """Add a copy within fixed point by whole vectors, if that is possible and faster.

    Args:
        fields: of the copy pixel by pixel.
        table: bytes from the start of the source's plane, [phases, numbers of a plane].
        mask: zero where there is no pixel.
    """
    vector = 2 * PERMUTED
    if 4 * context.lanes != vector:
        return False
    place = table.reshape(-1, PERMUTED)
    counted = mask.reshape(-1, PERMUTED) != 0
    target, lane = np.nonzero(counted)
    source = place[target, lane] // vector
    # An entry for each vector of the target and vector of the source that it takes numbers from.
    pairs, entry = np.unique(np.stack((target, source), 1), axis=0, return_inverse=True)
    if len(pairs) > MOST_PERMUTED * len(place):
        return False
    entry = entry.reshape(-1)
    numbers = np.zeros((len(pairs), PERMUTED), np.int16)
    used = np.zeros((len(pairs), PERMUTED), bool)
    numbers[entry, lane] = place[target, lane] % vector // 2
    used[entry, lane] = True
    both = np.concatenate((numbers, used), 1)
    patterns, pattern = np.unique(both, axis=0, return_inverse=True)
    add = context.constants.add
    bits = np.packbits(patterns[:, PERMUTED:] != 0, axis=1, bitorder="little")
    ends = np.searchsorted(pairs[:, 0], np.arange(len(place) + 1))
    kept = {name: value for name, value in fields.items() if name not in _PIXELWISE}
    context.add(
        layer,
        PermuteKernel(context.lanes),
        {
            **kept,
            "ends": add(ends.astype(np.int32)),
            "sources": add((pairs[:, 1] * vector).astype(np.int32)),
            "patterns": add(pattern.reshape(-1).astype(np.int32)),
            "pattern_count": len(patterns),
            "numbers": add(np.ascontiguousarray(patterns[:, :PERMUTED], np.int16)),
            "counted": add(bits.view(np.uint32).reshape(-1)),
        },
    )
    return True


def _unpack(
    context: LoweringContext,
    layer: str,
    destination: str,
    source: Buffer,
    target: dict[str, int],
    chosen: np.ndarray | None = None,
) -> None:
    """Args: `chosen` are the features that are taken, all of them by default."""
    rows, columns = np.indices((source.height, source.width))
    places, planes, plane = _pixel_bytes(source, rows, columns), source.channels, source.plane
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


def _pixel_bytes(buffer: Buffer, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bytes from the start of a plane to pixels of it."""
    layout = buffer.layout
    if not layout.tile:
        return np.zeros_like(rows)
    return buffer.bytes(layout.places(rows, columns))
