"""Lowering: instruction selection, from layers and buffers to kernels with their operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from strzoo.engine.codegen.elementwise import SoftmaxKernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.fixed import (
    Dequantize,
    FixedConvolution,
    FixedGlobalAveragePool,
    FixedLinear,
    Quantize,
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
    Rearrange,
    Resample,
    Softmax,
)
from strzoo.engine.ir.quads import (
    DequantizeQuads,
    QuadConvolution,
    QuadGlobalAveragePool,
    QuantizeQuads,
)
from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.memory_plan import MemoryPlan
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.context import (
    LoweringContext,
)
from strzoo.engine.lowering.convolutions import ConvolutionLowering
from strzoo.engine.lowering.images import load_images, store_results
from strzoo.engine.lowering.instructions import number_rows
from strzoo.engine.lowering.linears import lower_linear
from strzoo.engine.lowering.maps import lower_elementwise, lower_normalize
from strzoo.engine.lowering.moving import pick_pixels, rearrange_pixels, resample_pixels
from strzoo.engine.lowering.packing import (
    copy_pixels,
    flatten,
    windowed_source,
)
from strzoo.engine.lowering.plan import Plan, array_shape
from strzoo.engine.lowering.pools import lower_global_pool, lower_pool, lower_quad_pool
from strzoo.engine.lowering.quads import convert_quads


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
    lower_linear(context, linear)
    if residual:
        lower_elementwise(
            context, Add(layer.name, (layer.output, *residual), layer.output, layer.bounds)
        )


def _pick(context: LoweringContext, layer: Pick) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    pick_pixels(context, layer.name, source, target, layer.rows, layer.columns)


def _rearrange(context: LoweringContext, layer: Rearrange) -> None:
    source = context.memory.values[layer.inputs[0]]
    target = context.memory.values[layer.output]
    rearrange_pixels(context, layer, source, target)


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
    FixedGlobalAveragePool: lower_global_pool,
    FixedLinear: lower_linear,
    QuadConvolution: _convolution,
    QuadGlobalAveragePool: lower_quad_pool,
    QuantizeQuads: _convert_quads,
    DequantizeQuads: _convert_quads,
    Quantize: _convert,
    Dequantize: _convert,
    Linear: lower_linear,
    MaxPool: lower_pool,
    AveragePool: lower_pool,
    GlobalAveragePool: lower_global_pool,
    Add: lower_elementwise,
    Affine: lower_elementwise,
    Clamp: lower_elementwise,
    Combine: lower_elementwise,
    PRelu: lower_elementwise,
    Normalize: lower_normalize,
    Pick: _pick,
    Rearrange: _rearrange,
    Resample: resample_pixels,
    Concat: _concat,
    Flatten: _flatten,
    Softmax: _softmax,
}
