"""Layers that work number by number or pixel by pixel, as kernels with their operands."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.elementwise import ElementwiseKernel
from strzoo.engine.codegen.normalizing import NormalizeKernel
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    Clamp,
    Combine,
    Normalize,
    PRelu,
)
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.lowering.context import (
    LoweringContext,
    bounds_of,
    pieces_of,
    planes_of,
)


def lower_elementwise(
    context: LoweringContext, layer: Add | Affine | Clamp | Combine | PRelu
) -> None:
    """Each number of the target, of one or two numbers and those of its channel."""
    target = context.memory.values[layer.output]
    inputs = [context.memory.values[name] for name in layer.inputs]
    kind, low, high = bounds_of(None if isinstance(layer, PRelu) else layer.bounds)
    names = {Add: "add", Affine: "affine", Clamp: "clamp", PRelu: "prelu"}
    arithmetic = layer.function if isinstance(layer, Combine) else names[type(layer)]
    scales = shifts = 0
    if isinstance(layer, Affine):
        scales = context.constants.add(layer.scale.astype(np.float32))
        shifts = context.constants.add(layer.shift.astype(np.float32))
    if isinstance(layer, PRelu):
        scales = context.constants.add(layer.slope.astype(np.float32))
    shared = inputs[-1].height * inputs[-1].width < target.height * target.width
    masked = target.must_be_clean and not target.packed
    lanes = context.images if target.packed else context.lanes
    context.add(
        layer.name,
        ElementwiseKernel(lanes, arithmetic, masked, kind, context.images * shared),
        planes_of("source", inputs[0])
        | planes_of("other", inputs[-1])
        | planes_of("target", target)
        | _number_by_number(context, target)
        | {
            "scales": scales,
            "shifts": shifts,
            "low": low,
            "high": high,
        },
    )


def lower_normalize(context: LoweringContext, layer: Normalize) -> None:
    """Each pixel over its channels."""
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    kind, low, high = bounds_of(layer.bounds)
    masked = target.must_be_clean and not target.packed
    lanes = context.images if target.packed else context.lanes
    context.add(
        layer.name,
        NormalizeKernel(lanes, masked, kind),
        planes_of("source", source)
        | planes_of("target", target)
        | _number_by_number(context, target)
        | {
            "scales": context.constants.add(layer.scale.astype(np.float32)),
            "shifts": context.constants.add(layer.shift.astype(np.float32)),
            "part": 1 / target.channels,
            "epsilon": layer.epsilon,
            "low": low,
            "high": high,
        },
    )


def _number_by_number(context: LoweringContext, target: Buffer) -> dict[str, int | float]:
    """The operands of a kernel that makes each number of `target` of those at its place."""
    layout = None if target.packed else target.layout
    return {
        **pieces_of(target),
        "tile": layout.tile if layout else 1,
        "tiles": layout.tiles if layout else 1,
        "target_vectors": layout.vectors if layout else 1,
        "planes": target.channels,
        "mask": context.mask(target) if layout and target.must_be_clean else 0,
    }
