"""Pools, as kernels with their operands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.quad_packing import QuadPoolKernel
from strzoo.engine.codegen.windows import PoolKernel
from strzoo.engine.ir.fixed import (
    FixedGlobalAveragePool,
)
from strzoo.engine.ir.graph import (
    AveragePool,
    GlobalAveragePool,
    MaxPool,
)
from strzoo.engine.ir.quads import (
    QuadGlobalAveragePool,
)
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.masks import pixel_mask, window_scales
from strzoo.engine.lowering.context import (
    LoweringContext,
    pieces_of,
    planes_of,
    window_fields,
)
from strzoo.engine.lowering.packing import (
    copy_pixels,
    windowed_source,
)


def lower_pool(context: LoweringContext, layer: MaxPool | AveragePool) -> None:
    """The largest or the mean of each window."""
    value = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    source = windowed_source(context, layer)
    walk, fields = window_fields(context, layer, source, target)
    kind, scales = "max", 0
    if isinstance(layer, AveragePool):
        kind = "mean"
        scales = context.constants.add(window_scales(layer, value, target), spare=4 * context.lanes)
    taps = len(context.memory.taps[layer.name].offsets)
    context.add(layer.name, PoolKernel(walk, kind), fields | {"taps": taps, "scales": scales})


def lower_global_pool(context: LoweringContext, layer: GlobalAveragePool) -> None:
    """The mean of each plane, as features."""
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    if source.packed:
        copy_pixels(context, layer.name, source, target)
        return
    scales = 0
    if isinstance(layer, FixedGlobalAveragePool) and layer.scale is not None:
        scales = context.constants.add(layer.scale.astype(np.float32))
    context.add(
        layer.name,
        GlobalPoolKernel(context.lanes, context.images, source.fixed),
        _whole_planes(context, source, target)
        | {"scales": scales, "scale": 1.0 / (source.height * source.width)},
    )


def lower_quad_pool(context: LoweringContext, layer: QuadGlobalAveragePool) -> None:
    """The same of planes in 8 bits."""
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    context.add(
        layer.name,
        QuadPoolKernel(context.lanes, layer.zero),
        _whole_planes(context, source, target)
        | {"share": 1.0 / (source.height * source.width), "scale": layer.scale},
    )


def _whole_planes(
    context: LoweringContext, source: Buffer, target: Buffer
) -> dict[str, int | float]:
    """The operands of a kernel that makes features of the pixels of whole planes."""
    layout = replace(source.layout, height=source.height, width=source.width, tile=1, phases=1)
    return {
        **planes_of("source", source),
        **pieces_of(source),
        "tile": source.layout.tile,
        "tiles": source.layout.tiles,
        "target": target.address,
        "target_vectors": source.layout.vectors,
        "planes": source.channels,
        "mask": context.constants.add(
            pixel_mask(layout), ("mask", layout), spare=4 * context.lanes
        ),
    }
