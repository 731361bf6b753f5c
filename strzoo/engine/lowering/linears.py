"""Fully connected layers, as kernels with their operands."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.linear import LinearKernel
from strzoo.engine.codegen.masked_linear import MASKED_LANES, READ, MaskedLinearKernel
from strzoo.engine.codegen.rows import REACH
from strzoo.engine.ir.fixed import (
    FixedLinear,
    unfixed,
)
from strzoo.engine.ir.graph import (
    Linear,
)
from strzoo.engine.ir.masks import padded
from strzoo.engine.lowering.context import (
    LoweringContext,
    bounds_of,
)
from strzoo.engine.lowering.weights import split_rows

DENSE_LINEAR = 0.33  # a fully connected layer denser than this runs dense
# By lanes: one in 16 bits that is denser runs with masks that spread the weights.
MASKED_LINEAR = {8: 0.18, 16: 0.08}


def lower_linear(context: LoweringContext, layer: Linear) -> None:
    """By the nonzero weights, or dense where there are too many."""
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    assert source.packed, layer.name
    assert target.packed, layer.name
    if isinstance(layer, FixedLinear):
        if _masked_linear(context, layer):
            return
        layer = unfixed(layer)
    rows, inputs = layer.weight.shape
    row, column = np.nonzero(layer.weight)
    weights = layer.weight.astype(np.float32)
    dense = context.images == 1 and len(row) > DENSE_LINEAR * weights.size
    wide = not dense and inputs > REACH
    per_row = np.full(rows, inputs) if dense else np.bincount(row, minlength=rows)
    part_rows = split_rows(per_row)
    ends = entries = 0
    if not dense:
        weights = weights[row, column]
        ends = context.constants.add(np.concatenate(([0], np.cumsum(per_row))).astype(np.int32))
        entries = context.constants.add(column.astype(np.int32 if wide else np.uint16), spare=64)
    kind, low, high = bounds_of(layer.bounds)
    context.chosen[layer.name] = "dense" if dense else "sparse"
    context.add(
        layer.name,
        LinearKernel(context.images, context.lanes if dense else 1, dense, wide, kind),
        {
            "source": source.address,
            "target": target.address,
            "parts": len(part_rows) - 1,
            "part_rows": context.constants.add(part_rows),
            "ends": ends,
            "entries": entries,
            "weights": context.constants.add(weights, spare=64),
            "inputs": inputs,
            "bias": context.constants.add(layer.bias.astype(np.float32)),
            "low": low,
            "high": high,
        },
    )


def _masked_linear(context: LoweringContext, layer: FixedLinear) -> bool:
    """Add the form whose weights are spread by masks, if that is the best here."""
    used = layer.weight != 0
    possible = context.images == 1 and context.lanes in MASKED_LANES
    if not (possible and used.mean() > MASKED_LINEAR[context.lanes]):
        return False
    per_row, inputs = used.sum(1), used.shape[1]
    part_rows = split_rows(per_row + inputs)
    filled = np.pad(used, ((0, 0), (0, padded(inputs) - inputs)))
    kind, low, high = bounds_of(layer.bounds)
    context.chosen[layer.name] = "masked, int16"
    add = context.constants.add
    assert layer.scale is not None
    context.add(
        layer.name,
        MaskedLinearKernel(context.lanes, kind),
        {
            "source": context.memory.values[layer.inputs[0]].address,
            "target": context.memory.values[layer.output].address,
            "parts": len(part_rows) - 1,
            "part_rows": add(part_rows),
            "ends": add(np.concatenate(([0], np.cumsum(per_row))).astype(np.int32)),
            "masks": add(np.packbits(filled, axis=1, bitorder="little")),
            "weights": add(np.concatenate((layer.weight[used], np.zeros(READ, np.int16)))),
            "inputs": inputs,
            "features": context.reserve(2 * filled.shape[1])[0],
            "scales": add(layer.scale.astype(np.float32)),
            "bias": add(layer.bias.astype(np.float32)),
            "low": low,
            "high": high,
        },
    )
    return True
