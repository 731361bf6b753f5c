"""Lowering: instruction selection, from layers and buffers to kernels with their operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from strzoo.engine.codegen.elementwise import ElementwiseKernel, SoftmaxKernel
from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.linear import AT_ONCE, EXPANDED, LinearKernel
from strzoo.engine.codegen.normalizing import NormalizeKernel
from strzoo.engine.codegen.quad_packing import QuadPoolKernel
from strzoo.engine.codegen.rows import REACH
from strzoo.engine.codegen.windows import PoolKernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.fixed import (
    Dequantize,
    FixedConvolution,
    FixedGlobalAveragePool,
    FixedLinear,
    Quantize,
    unfixed,
)
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    AveragePool,
    Clamp,
    Combine,
    Concat,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Graph,
    Layer,
    Linear,
    MaxPool,
    Normalize,
    Pick,
    PRelu,
    Softmax,
)
from strzoo.engine.ir.quads import (
    DequantizeQuads,
    QuadConvolution,
    QuadGlobalAveragePool,
    QuantizeQuads,
)
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.masks import pixel_mask, window_scales
from strzoo.engine.layout.memory_plan import MemoryPlan
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.context import (
    LoweringContext,
    bounds_of,
    pieces_of,
    planes_of,
    window_fields,
)
from strzoo.engine.lowering.convolutions import ConvolutionLowering
from strzoo.engine.lowering.instructions import number_rows
from strzoo.engine.lowering.packing import (
    convert_quads,
    copy_pixels,
    flatten,
    load_images,
    pick_pixels,
    store_results,
    windowed_source,
)
from strzoo.engine.lowering.plan import Plan, array_shape
from strzoo.engine.lowering.weights import split_rows

DENSE_LINEAR = 0.33  # a fully connected layer denser than this runs dense
MASKED_LINEAR = 0.15  # one in 16 bits that is denser runs with masks that spread the weights


def lower(
    graph: Graph,
    memory: MemoryPlan,
    hardware: Hardware,
    tilings: Mapping[str, Tiling],
    threads: int = 1,
) -> Plan:
    """The plan of `graph`, whose buffers lie as `memory` says.

    Args:
        graph: simplified.
        memory: as `plan_memory` made it.
        hardware: what the plan is made for.
        tilings: already chosen, by layer; the others go by the cost model.
        threads: that work on a group together. Any number can run the plan; it is fastest with
            this one.
    """
    context = LoweringContext(memory, hardware, tilings, threads)
    load_images(context, graph)
    for layer in graph.layers:
        if layer.name not in context.done:
            _RULES[type(layer)](context, layer)
    store_results(context, graph)
    instructions = context.instructions
    return Plan(
        memory.images,
        hardware.lanes,
        number_rows([item.row for item in instructions]),
        tuple(item.kernel for item in instructions),
        tuple(item.layer for item in instructions),
        context.constants.block(),
        4 * memory.size,
        context.scratch + 4096,
        array_shape([graph.shapes[name] for name in graph.inputs]),
        array_shape([graph.shapes[name] for name in graph.outputs]),
        context.chosen,
    )


def _convolution(context: LoweringContext, layer: Convolution) -> None:
    if context.memory.values[layer.output].packed:
        _convolve_vector(context, layer)
        return
    source = windowed_source(context, layer)
    ConvolutionLowering(context, layer, source, context.memory.values[layer.output]).lower()


def _convolve_vector(context: LoweringContext, layer: Convolution) -> None:
    """A convolution of a 1x1 map: only the tap at the pixel has an effect."""
    out, per_group = layer.weight.shape[:2]
    weight = np.zeros((out, per_group * layer.groups), np.float32)
    offsets = context.memory.taps[layer.name].offsets
    if (0, 0) in offsets:  # a dilated window may miss the pixel
        over = layer.weight.reshape(out, per_group, -1)[:, :, offsets.index((0, 0))]
        for row in range(out):
            first = row // (out // layer.groups) * per_group
            weight[row, first : first + per_group] = over[row]
    residual = layer.inputs[1:]
    bounds = None if residual else layer.bounds
    linear = Linear(layer.name, layer.inputs[:1], layer.output, weight, layer.bias, bounds)
    _linear(context, linear)
    if residual:
        _elementwise(
            context, Add(layer.name, (layer.output, *residual), layer.output, layer.bounds)
        )


def _linear(context: LoweringContext, layer: Linear) -> None:
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
    possible = context.images == 1 and context.lanes == EXPANDED and inputs % AT_ONCE == 0
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
            "weights": add(np.concatenate((weights, np.zeros(EXPANDED, weights.dtype)))),
            "inputs": inputs,
            "scales": 0 if scales is None else add(scales.astype(np.float32)),
            "bias": add(layer.bias.astype(np.float32)),
            "low": low,
            "high": high,
        },
    )
    return True


def _pool(context: LoweringContext, layer: MaxPool | AveragePool) -> None:
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


def _global_pool(context: LoweringContext, layer: GlobalAveragePool) -> None:
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


def _quad_pool(context: LoweringContext, layer: QuadGlobalAveragePool) -> None:
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


def _elementwise(context: LoweringContext, layer: Add | Affine | Clamp | Combine | PRelu) -> None:
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


def _normalize(context: LoweringContext, layer: Normalize) -> None:
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


def _pick(context: LoweringContext, layer: Pick) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    pick_pixels(context, layer.name, source, target, layer.rows, layer.columns)


def _concat(context: LoweringContext, layer: Concat) -> None:
    """Copy the inputs that were not written in place."""
    whole = context.memory.values[layer.output]
    channel = 0
    for name in layer.inputs:
        part = context.memory.values[name]
        if part.inside is not whole or part.channel != channel:
            place = Buffer(
                name, part.channels, part.height, part.width, inside=whole, channel=channel
            )
            place.packed = whole.packed
            copy_pixels(context, layer.name, part, place)
        channel += part.channels


def _flatten(context: LoweringContext, layer: Flatten) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    flatten(context, layer.name, source, target)


def _convert(context: LoweringContext, layer: Quantize | Dequantize) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    scale = layer.scale if isinstance(layer, Dequantize) else 1 / layer.scale
    copy_pixels(context, layer.name, source, target, scale=scale)


def _convert_quads(context: LoweringContext, layer: QuantizeQuads | DequantizeQuads) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    fp32 = source if isinstance(layer, QuantizeQuads) else target
    convert_quads(context, layer, source, target, fp32.channels)


def _softmax(context: LoweringContext, layer: Softmax) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    places = {"source": source.address, "target": target.address, "features": source.channels}
    context.add(layer.name, SoftmaxKernel(context.images), places)


_RULES: dict[type[Layer], Callable[..., None]] = {
    Convolution: _convolution,
    FixedConvolution: _convolution,
    FixedGlobalAveragePool: _global_pool,
    FixedLinear: _linear,
    QuadConvolution: _convolution,
    QuadGlobalAveragePool: _quad_pool,
    QuantizeQuads: _convert_quads,
    DequantizeQuads: _convert_quads,
    Quantize: _convert,
    Dequantize: _convert,
    Linear: _linear,
    MaxPool: _pool,
    AveragePool: _pool,
    GlobalAveragePool: _global_pool,
    Add: _elementwise,
    Affine: _elementwise,
    Clamp: _elementwise,
    Combine: _elementwise,
    PRelu: _elementwise,
    Normalize: _normalize,
    Pick: _pick,
    Concat: _concat,
    Flatten: _flatten,
    Softmax: _softmax,
}
