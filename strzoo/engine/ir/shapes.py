"""Shape inference: one function per kind of layer, for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

from strzoo.engine.ir.fixed import Dequantize, Quantize
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
    Layer,
    Linear,
    MaxPool,
    Normalize,
    Pick,
    PRelu,
    Rearrange,
    Resample,
    Shape,
    Softmax,
    Window,
)
from strzoo.engine.ir.quads import DequantizeQuads, QuantizeQuads
from strzoo.engine.ir.windows import count_positions, spread
from strzoo.errors import IntegrityError, UsageError


@singledispatch
def infer_shape(layer: Layer, inputs: Sequence[Shape]) -> Shape:
    """Shape of the output of `layer`, given those of its inputs.

    Raises:
        IntegrityError: the layer does not fit its inputs; it is named.
        UsageError: the input is too small for the layer's window.
    """
    raise TypeError(f"{type(layer).__name__} has no shape rule")


@infer_shape.register
def _(layer: Convolution, inputs: Sequence[Shape]) -> Shape:
    source = _map(layer, inputs[0])
    out, per_group, *kernel = layer.weight.shape
    if tuple(kernel) != layer.window.kernel:
        raise IntegrityError(f"{layer.name}: kernel {layer.window.kernel} of a {kernel} weight")
    if per_group * layer.groups != source[0] or out % layer.groups:
        raise IntegrityError(
            f"{layer.name}: a weight of shape {layer.weight.shape} in {layer.groups} groups does "
            f"not fit {source[0]} channels"
        )
    _check_length(layer, "bias", layer.bias.shape, out)
    result = (out, *_slide(layer, layer.window, source))
    if len(inputs) > 1 and inputs[1] != result:
        raise IntegrityError(f"{layer.name}: {inputs[1]} cannot be added to {result}")
    return result


@infer_shape.register
def _(layer: Linear, inputs: Sequence[Shape]) -> Shape:
    if len(inputs[0]) != 1 or inputs[0][0] != layer.weight.shape[1]:
        raise IntegrityError(
            f"{layer.name}: a weight of shape {layer.weight.shape} does not fit an input of "
            f"shape {inputs[0]}"
        )
    _check_length(layer, "bias", layer.bias.shape, layer.weight.shape[0])
    return (layer.weight.shape[0],)


@infer_shape.register(Affine)
@infer_shape.register(Normalize)
def _(layer: Affine | Normalize, inputs: Sequence[Shape]) -> Shape:
    for name, values in (("scale", layer.scale), ("shift", layer.shift)):
        _check_length(layer, name, values.shape, inputs[0][0])
    return inputs[0]


@infer_shape.register(MaxPool)
@infer_shape.register(AveragePool)
def _(layer: MaxPool | AveragePool, inputs: Sequence[Shape]) -> Shape:
    source = _map(layer, inputs[0])
    return (source[0], *_slide(layer, layer.window, source))


@infer_shape.register
def _(layer: GlobalAveragePool, inputs: Sequence[Shape]) -> Shape:
    channels = _map(layer, inputs[0])[0]
    return (channels,) if layer.flat else (channels, 1, 1)


@infer_shape.register
def _(layer: Add, inputs: Sequence[Shape]) -> Shape:
    first, second = inputs
    if first != second:
        raise IntegrityError(f"{layer.name}: {first} and {second} cannot be added")
    return first


@infer_shape.register
def _(layer: Combine, inputs: Sequence[Shape]) -> Shape:
    first, second = inputs
    if second not in (first, first[:1], (first[0], 1, 1)):
        raise IntegrityError(f"{layer.name}: {first} and {second} cannot be combined")
    return first


@infer_shape.register
def _(layer: Pick, inputs: Sequence[Shape]) -> Shape:
    channels, height, width = _map(layer, inputs[0])
    for places, size in ((layer.rows, height), (layer.columns, width)):
        if not len(places) or places.min() < 0 or places.max() >= size:
            raise IntegrityError(f"{layer.name}: takes pixels {places.tolist()} of {size}")
    return channels, len(layer.rows), len(layer.columns)


@infer_shape.register
def _(layer: Rearrange, inputs: Sequence[Shape]) -> Shape:
    places = layer.places
    if not places.size or places.min() < 0 or layer.repeats < 1 or layer.step < 1:
        raise IntegrityError(f"{layer.name}: takes no numbers, or some before the first")
    last = places.max() + (layer.repeats - 1) * layer.step * math.prod(inputs[0][1:])
    if last >= math.prod(inputs[0]):
        raise IntegrityError(f"{layer.name}: takes number {last} of {math.prod(inputs[0])}")
    return layer.repeats * len(places), *places.shape[1:]


@infer_shape.register
def _(layer: Resample, inputs: Sequence[Shape]) -> Shape:
    channels, height, width = _map(layer, inputs[0])
    for places, weights, size in (
        (layer.rows, layer.row_weights, height),
        (layer.columns, layer.column_weights, width),
    ):
        if places.shape != weights.shape or not places.size:
            raise IntegrityError(f"{layer.name}: {places.shape} pixels, {weights.shape} weights")
        if places.min() < 0 or places.max() >= size:
            raise IntegrityError(f"{layer.name}: takes pixel {places.max()} of {size}")
    return channels, layer.rows.shape[1], layer.columns.shape[1]


@infer_shape.register
def _(layer: PRelu, inputs: Sequence[Shape]) -> Shape:
    _check_length(layer, "slope", layer.slope.shape, inputs[0][0])
    return inputs[0]


@infer_shape.register
def _(layer: QuantizeQuads, inputs: Sequence[Shape]) -> Shape:
    if not layer.parts:
        return inputs[0]
    channels, height, width = _map(layer, inputs[0])
    if height % 2 or width % 2 or max(part[0] for part in layer.parts) >= channels:
        raise IntegrityError(f"{layer.name}: {inputs[0]} has no squares of {layer.parts}")
    return len(layer.parts), height // 2, width // 2


@infer_shape.register(Clamp)
@infer_shape.register(DequantizeQuads)
@infer_shape.register(Quantize)
@infer_shape.register(Dequantize)
def _(layer: Layer, inputs: Sequence[Shape]) -> Shape:
    return inputs[0]


@infer_shape.register
def _(layer: Concat, inputs: Sequence[Shape]) -> Shape:
    if len({shape[1:] for shape in inputs}) != 1:
        raise IntegrityError(f"{layer.name}: {', '.join(map(str, inputs))} cannot be joined")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@infer_shape.register
def _(layer: Flatten, inputs: Sequence[Shape]) -> Shape:
    return (math.prod(inputs[0]),)


@infer_shape.register
def _(layer: Softmax, inputs: Sequence[Shape]) -> Shape:
    if len(inputs[0]) != 1:
        raise IntegrityError(f"{layer.name}: softmax of {inputs[0]}; it needs a vector")
    return inputs[0]


def _map(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise IntegrityError(f"{layer.name}: an input of shape {shape} is not a map")
    return shape[0], shape[1], shape[2]


def _check_length(layer: Layer, name: str, shape: Shape, length: int) -> None:
    if shape != (length,):
        raise IntegrityError(f"{layer.name}: {name} has shape {shape}, expected ({length},)")


def _slide(layer: Layer, window: Window, source: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of what a window leaves of a map."""
    sizes = []
    for axis in range(2):
        kernel, dilation = window.kernel[axis], window.dilations[axis]
        before, after = window.pads[axis], window.pads[2 + axis]
        size = count_positions(
            source[1 + axis], kernel, window.strides[axis], before, after, dilation
        )
        if size < 1:
            raise UsageError(
                f"{layer.name}: its window spans {spread(kernel, dilation)} pixels, the map has "
                f"{source[1 + axis] + before + after}; the input size is too small"
            )
        sizes.append(size)
    return sizes[0], sizes[1]
