"""Fully connected layers, as kernels with their operands."""

from __future__ import annotations

import numpy as np

from strzoo.engine.codegen.linear import AT_ONCE, EXPANDED, LinearKernel
from strzoo.engine.codegen.rows import REACH
from strzoo.engine.ir.fixed import (
    FixedLinear,
    unfixed,
)
from strzoo.engine.ir.graph import (
    Linear,
)
from strzoo.engine.lowering.context import (
    LoweringContext,
    bounds_of,
)
from strzoo.engine.lowering.weights import split_rows

DENSE_LINEAR = 0.33  # a fully connected layer denser than this runs dense
MASKED_LINEAR = 0.15  # one in 16 bits that is denser runs with masks that spread the weights


def lower_linear(context: LoweringContext, layer: Linear) -> None:
    """By the nonzero weights, or dense where there are too many."""
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    assert source.packed, layer.name
    assert target.packed, layer.name
    if _masked_linear(context, layer):
        return
    if isinstance(layer, FixedLinear):
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
            "masks": 0,
            "inputs": inputs,
            "scales": 0,
            "bias": context.constants.add(layer.bias.astype(np.float32)),
            "low": low,
            "high": high,
        },
    )


def _masked_linear(context: LoweringContext, layer: Linear) -> bool:
    """Add the masked form, if that is the best here. In fp32 it takes as long as the dense one,
    because its loads cross the lines of the cache."""
    inputs, used = layer.weight.shape[1], layer.weight != 0
    possible = context.images == 1 and context.lanes in EXPANDED and inputs % AT_ONCE == 0
    fixed = isinstance(layer, FixedLinear)
    if not (fixed and possible and used.mean() > MASKED_LINEAR):
        return False
    per_row = used.sum(1)
    part_rows = split_rows(per_row + inputs)
    kind, low, high = bounds_of(layer.bounds)
    context.chosen[layer.name] = "masked" + ", int16" * fixed
    add = context.constants.add
    weights = layer.weight[used].astype(np.int16 if fixed else np.float32)
    scales = layer.scale if isinstance(layer, FixedLinear) else None
    context.add(
        layer.name,
        LinearKernel(1, context.lanes, bounds=kind, masked=True, fixed=fixed),
        {
            "source": context.memory.values[layer.inputs[0]].address,
            "target": context.memory.values[layer.output].address,
            "parts": len(part_rows) - 1,
            "part_rows": add(part_rows),
            "ends": add(np.concatenate(([0], np.cumsum(per_row))).astype(np.int32)),
            "entries": 0,
            "masks": add(np.packbits(used, axis=1, bitorder="little")),
            "weights": add(np.concatenate((weights, np.zeros(context.lanes, weights.dtype)))),
            "inputs": inputs,
            "scales": 0 if scales is None else add(scales.astype(np.float32)),
            "bias": add(layer.bias.astype(np.float32)),
            "low": low,
            "high": high,
        },
    )
    return True
