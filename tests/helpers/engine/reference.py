"""What a graph computes, in torch float64: written from the layers' definitions alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from strzoo.engine.ir.graph import (
    Add,
    Affine,
    AveragePool,
    Bounds,
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
    Window,
)


def run_graph(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Output of `graph`, float64 [N, ...], for images [N, C, H, W]."""
    values = {graph.input: torch.from_numpy(images.astype(np.float64))}
    for layer in graph.layers:
        result = run_layer(layer, [values[name] for name in layer.inputs])
        assert tuple(result.shape[1:]) == graph.shapes[layer.output], layer.name
        values[layer.output] = result
    return values[graph.output].numpy()


def run_layer(layer: Layer, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    if isinstance(layer, Convolution):
        window = layer.window
        y = functional.conv2d(
            _pad(x, window, 0.0),
            _real(layer.weight),
            _real(layer.bias),
            window.strides,
            0,
            window.dilations,
            layer.groups,
        )
        return bound(y + inputs[1] if len(inputs) > 1 else y, layer.bounds)
    if isinstance(layer, Linear):
        return bound(x @ _real(layer.weight).T + _real(layer.bias), layer.bounds)
    if isinstance(layer, Affine):
        shape = (-1, *[1] * (x.dim() - 2))
        y = x * _real(layer.scale).reshape(shape) + _real(layer.shift).reshape(shape)
        return bound(y, layer.bounds)
    if isinstance(layer, MaxPool):
        return _windows(_pad(x, layer.window, -torch.inf), layer.window).amax((-2, -1))
    if isinstance(layer, AveragePool):
        return _average(x, layer)
    if isinstance(layer, GlobalAveragePool):
        return x.mean((2, 3), keepdim=not layer.flat)
    if isinstance(layer, Add):
        return bound(x + inputs[1], layer.bounds)
    if isinstance(layer, Combine):
        y = inputs[1] if x.shape == inputs[1].shape else inputs[1].reshape(*x.shape[:2], 1, 1)
        rules = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}
        return bound(rules[layer.function](x, y), layer.bounds)
    if isinstance(layer, Normalize):
        shape = (-1, *[1] * (x.dim() - 2))
        spread = (x.var(1, correction=0, keepdim=True) + layer.epsilon).sqrt()
        y = (x - x.mean(1, keepdim=True)) / spread
        y = y * _real(layer.scale).reshape(shape) + _real(layer.shift).reshape(shape)
        return bound(y, layer.bounds)
    if isinstance(layer, PRelu):
        return torch.where(x > 0, x, x * _real(layer.slope).reshape(-1, *[1] * (x.dim() - 2)))
    if isinstance(layer, Pick):
        return x[:, :, torch.from_numpy(layer.rows)][..., torch.from_numpy(layer.columns)]
    if isinstance(layer, Resample):
        tall = x[:, :, torch.from_numpy(layer.rows)] * _real(layer.row_weights)[..., None]
        wide = tall.sum(2)[..., torch.from_numpy(layer.columns)] * _real(layer.column_weights)
        return wide.sum(3)
    if isinstance(layer, Rearrange):
        numbers = x.flatten(1)
        behind = layer.step * numbers.shape[1] // x.shape[1]
        parts = [
            numbers[:, torch.from_numpy(layer.places.reshape(-1)) + r * behind].reshape(
                len(x), *layer.places.shape
            )
            for r in range(layer.repeats)
        ]
        return torch.cat(parts, 1)
    if isinstance(layer, Clamp):
        return bound(x, layer.bounds)
    if isinstance(layer, Concat):
        return torch.cat(inputs, 1)
    if isinstance(layer, Flatten):
        return x.flatten(1)
    assert isinstance(layer, Softmax)
    return torch.softmax(x, 1)


def _average(x: Tensor, layer: AveragePool) -> Tensor:
    """Sums over windows, divided by sums over windows of a mask of what counts."""
    top, left, bottom, right = layer.window.pads
    height, width = x.shape[2:]
    mask = torch.zeros(1, 1, top + height + bottom, left + width + right, dtype=torch.float64)
    if layer.count_padding:
        down, across = layer.overhang
        mask[:, :, : mask.shape[2] - down, : mask.shape[3] - across] = 1
    else:
        mask[:, :, top : top + height, left : left + width] = 1
    total = _windows(_pad(x, layer.window, 0.0), layer.window).sum((-2, -1))
    return total / _windows(mask, layer.window).sum((-2, -1))


def _windows(x: Tensor, window: Window) -> Tensor:
    """[N, C, H', W', kh, kw]: what each window sees of the padded map `x`."""
    for axis, (kernel, stride, dilation) in enumerate(
        zip(window.kernel, window.strides, window.dilations, strict=True), 2
    ):
        x = x.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return x


def _pad(x: Tensor, window: Window, value: float) -> Tensor:
    top, left, bottom, right = window.pads
    return functional.pad(x, (left, right, top, bottom), value=value)


def bound(x: Tensor, bounds: Bounds | None) -> Tensor:
    """What `bounds` makes of sums: clamped, or a function of them."""
    if bounds is None:
        return x
    if bounds.clamps:
        return x.clamp(min=bounds.low).clamp(max=bounds.high)
    a, b = bounds.low, bounds.high
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "abs": torch.abs,
        "elu": lambda v: functional.elu(v, a),
        "erf": torch.erf,
        "exp": torch.exp,
        "gelu": functional.gelu,
        "hardsigmoid": lambda v: (a * v + b).clamp(0, 1),
        "hardswish": lambda v: v * (a * v + b).clamp(0, 1),
        "leaky": lambda v: functional.leaky_relu(v, a),
        "log": torch.log,
        "mish": functional.mish,
        "over": lambda v: a / v,
        "power": lambda v: v**a,
        "sigmoid": torch.sigmoid,
        "silu": functional.silu,
        "softplus": functional.softplus,
        "softsign": functional.softsign,
        "sqrt": torch.sqrt,
        "tanh": torch.tanh,
        "tanhgelu": lambda v: functional.gelu(v, approximate="tanh"),
    }
    return functions[bounds.function](x)


def _real(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float64))
