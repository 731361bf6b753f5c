"""What layers in fixed point compute, in integers: written from their definitions alone."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import torch

from strzoo.engine.ir.fixed import (
    Dequantize,
    FixedConvolution,
    FixedGlobalAveragePool,
    FixedLinear,
    Quantize,
)
from strzoo.engine.ir.graph import Graph, Layer, MaxPool, Window
from strzoo.engine.ir.quads import (
    DequantizeQuads,
    QuadConvolution,
    QuadGlobalAveragePool,
    QuantizeQuads,
)
from tests.helpers.engine.reference import bound, run_layer

LEAST, LARGEST = -32768, 32767


def run_fixed_graph(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Output of `graph` for images [N, C, H, W]; integers where it is in fixed point, else float64.

    Sums saturate at their end only, so that the order of the weights does not matter.
    """
    values: dict[str, np.ndarray] = {graph.input: images.astype(np.float64)}
    for layer in graph.layers:
        inputs = [values[name] for name in layer.inputs]
        result = _run(layer, inputs)
        if result is None:
            result = _run_quads(layer, inputs)
        if result is None:
            result = run_layer(layer, [torch.from_numpy(value) for value in inputs]).numpy()
        assert result.shape[1:] == graph.shapes[layer.output], layer.name
        values[layer.output] = result
    return values[graph.output]


def _run(layer: Layer, inputs: list[np.ndarray]) -> np.ndarray | None:
    x = inputs[0]
    if isinstance(layer, Quantize):
        # As the engine: multiplied in fp32 by the rounded reciprocal.
        factor = (1 / layer.scale).astype(np.float32)[:, None, None]
        product_ = x.astype(np.float32) * factor
        return np.rint(product_).clip(-LARGEST, LARGEST).astype(np.int64)
    if isinstance(layer, Dequantize):
        scale = layer.scale.astype(np.float32)[:, None, None]
        return (x.astype(np.float32) * scale).astype(np.float64)
    if isinstance(layer, FixedConvolution):
        return convolve(layer, x, inputs[1] if len(inputs) > 1 else None)
    if isinstance(layer, FixedLinear):
        assert layer.scale is not None
        y = x @ (layer.weight * layer.scale.astype(np.float64)[:, None]).T + layer.bias
        return bound(torch.from_numpy(y), layer.bounds).numpy()
    if isinstance(layer, FixedGlobalAveragePool):
        assert layer.scale is not None
        y = x.mean((2, 3), keepdims=not layer.flat)
        return y * layer.scale.reshape((-1, *[1] * (y.ndim - 2)))
    if isinstance(layer, MaxPool) and x.dtype == np.int64:
        top, left, bottom, right = layer.window.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=LEAST)
        return np.max(list(_shifted(padded, layer.window).values()), axis=0)
    return None


def _run_quads(layer: Layer, inputs: list[np.ndarray]) -> np.ndarray | None:
    """A layer in 8 bits, whose numbers are uint8."""
    x = inputs[0]
    if isinstance(layer, QuantizeQuads):
        if layer.parts:
            x = np.stack([x[:, c, row::2, column::2] for c, row, column in layer.parts], 1)
        return np.rint(x / layer.scale + layer.zero).clip(0, 255).astype(np.uint8)
    if isinstance(layer, DequantizeQuads):
        return (x - float(layer.zero)) * layer.scale
    if isinstance(layer, QuadGlobalAveragePool):
        return (x.mean((2, 3), keepdims=not layer.flat) - layer.zero) * layer.scale
    if isinstance(layer, MaxPool) and x.dtype == np.uint8:
        top, left, bottom, right = layer.window.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        return np.max(list(_shifted(padded, layer.window).values()), axis=0)
    if not isinstance(layer, QuadConvolution):
        return None
    assert layer.scales is not None
    top, left, bottom, right = layer.window.pads
    sizes = ((0, 0), (0, 0), (top, bottom), (left, right))
    shifted = _shifted(np.pad(x, sizes, constant_values=layer.source_zero), layer.window)
    weight = layer.weight.astype(np.int64)
    sums = sum(
        np.einsum("oc,nchw->nohw", weight[:, :, down, across], seen.astype(np.int64))
        for (down, across), seen in shifted.items()
    )
    found = (sums + layer.bias[:, None, None]) * layer.scales.astype(np.float64)[:, None, None]
    if len(inputs) > 1:
        found = found + inputs[1] * layer.residual_scale
    return np.rint(found + layer.shift).clip(0, 255).astype(np.uint8)


def convolve(layer: FixedConvolution, x: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
    """int64 [N, out, height, width] of integers [N, in, height, width]."""
    weight, window = layer.weight.astype(np.int64), layer.window
    out, per_group = weight.shape[:2]
    top, left, bottom, right = window.pads
    shifted = _shifted(np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))), window)
    height, width = next(iter(shifted.values())).shape[2:]
    sums = np.zeros((len(x), out, height, width), np.int64) + layer.bias[:, None, None]
    for row in range(out):
        first = row // (out // layer.groups) * per_group
        for (down, across), seen in shifted.items():
            for channel in range(per_group):
                for factor in parts(int(weight[row, channel, down, across])):
                    sums[:, row] += (seen[:, first + channel] * factor + (1 << 14)) >> 15
    sums = sums.clip(LEAST, LARGEST)
    if residual is not None:
        sums = (sums + residual).clip(LEAST, LARGEST)
    if layer.limits is not None:
        limits = layer.limits.astype(np.int64)
        return np.maximum(np.minimum(sums, limits[:, 1, None, None]), limits[:, 0, None, None])
    if layer.bounds is not None:
        return np.maximum(sums, 0)
    return sums


def parts(weight: int) -> list[int]:
    """The weight as the fewest numbers of 16 bits, none of them more than one larger than others,
    the smaller ones first where rounding down says so."""
    count = -(-abs(weight) // LARGEST)
    ends = [abs(weight) * number // count for number in range(count + 1)] if count else [0]
    return [(after - before) * (1 if weight > 0 else -1) for before, after in pairwise(ends)]


def _shifted(padded: np.ndarray, window: Window) -> dict[tuple[int, int], np.ndarray]:
    """What each tap of a window sees, [N, C, height, width]."""
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
    sizes = [
        (padded.shape[2 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis in (0, 1)
    ]
    found = {}
    for down, across in product(range(kernel[0]), range(kernel[1])):
        y, x = down * dilations[0], across * dilations[1]
        rows = slice(y, y + (sizes[0] - 1) * strides[0] + 1, strides[0])
        columns = slice(x, x + (sizes[1] - 1) * strides[1] + 1, strides[1])
        found[down, across] = padded[:, :, rows, columns]
    return found
