"""Random small networks for hypothesis: `graphs()`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

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
    Shape,
    Softmax,
    Window,
)
from strzoo.engine.ir.shapes import infer_shape
from strzoo.engine.ir.windows import count_averaged, find_overhang

LIMITS = (None, None, Bounds(0.0), Bounds(0.0), Bounds(0.0, 6.0), Bounds(-0.5, 0.25))
ZEROS = (0.7, 0.0, 0.5, 0.5, 0.7, 0.9, 0.9, 0.95, 0.98, 1.0)
MOST_PIXELS = 24
MOST_CHANNELS = 40


T = TypeVar("T")

# Functions whose results stay in range.
CURVES = [
    Bounds(0.0, 0.0, "sigmoid"),
    Bounds(0.0, 0.0, "silu"),
    Bounds(0.0, 0.0, "tanh"),
    Bounds(0.0, 0.0, "gelu"),
    Bounds(0.0, 0.0, "erf"),
    Bounds(0.0, 0.0, "abs"),
    Bounds(0.2, 0.5, "hardsigmoid"),
    Bounds(1 / 6, 0.5, "hardswish"),
    Bounds(0.1, 0.0, "leaky"),
    Bounds(1.5, 0.0, "elu"),
    Bounds(0.0, 0.0, "mish"),
    Bounds(0.0, 0.0, "softplus"),
    Bounds(0.0, 0.0, "softsign"),
]


class Sketch:
    """A graph that grows: `draw` decides, `random` fills in the weights."""

    def __init__(self, draw: st.DrawFn, shape: Shape) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.shapes: dict[str, Shape] = {"x": shape}
        self.layers: list[Layer] = []

    def pick(self, choices: Iterable[T]) -> T:
        return self.draw(st.sampled_from(list(choices)))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    @property
    def last(self) -> str:
        return self.layers[-1].output if self.layers else "x"

    def source(self) -> str:
        """Mostly the newest map, sometimes an older one."""
        maps = [name for name, shape in self.shapes.items() if len(shape) == 3]
        return self.last if self.number(0, 3) else self.pick(maps)

    def add(self, kind: type[Layer], *inputs: str, **fields: object) -> str:
        name = f"{kind.__name__.lower()}{len(self.layers)}"
        layer = kind(name, inputs, f"{name}_out", **fields)
        self.shapes[layer.output] = infer_shape(layer, [self.shapes[i] for i in inputs])
        self.layers.append(layer)
        return layer.output

    def bounds(self) -> Bounds | None:
        if self.number(0, 3) == 3:
            return self.pick(CURVES)
        return self.draw(st.sampled_from(LIMITS))

    def weights(self, *shape: int) -> np.ndarray:
        """Normal numbers of which some, most or all are zero; at times whole rows are."""
        fan_in = math.prod(shape[1:])
        dense = self.random.standard_normal(shape) / np.sqrt(fan_in)
        dense[self.random.random(shape) < self.pick(ZEROS)] = 0
        if self.number(0, 6) == 6:
            dense[self.random.random(shape[0]) < 0.5] = 0
        return dense.astype(np.float32)

    def vector(self, length: int) -> np.ndarray:
        values = self.random.standard_normal(length) * (self.number(0, 3) < 3)
        return values.astype(np.float32)

    def window(self, size: tuple[int, int], *, pool: bool = False) -> Window:
        """Any that fits a map of `size`; that of a pool stays narrower than its kernel outside."""
        axes = []
        square = self.number(0, 1)
        for axis in range(2):
            if axis == 0 or not square:
                kernel, stride = self.number(1, 5), self.number(1, 3)
                dilation = self.number(1, 3) if self.number(0, 4) == 0 else 1
            if pool:
                kernel = min(kernel, size[axis])
                dilation = dilation if dilation * (kernel - 1) < size[axis] else 1
            reach = dilation * (kernel - 1)
            most = kernel - 1 if pool else reach
            before, after = self.number(0, most), self.number(0, most)
            short = reach + 1 - (size[axis] + before + after)
            if short > 0:
                after += short
            axes.append((kernel, stride, before, after, dilation))
        (kh, sv, top, bottom, dv), (kw, sh, left, right, dh) = axes
        return Window((kh, kw), (sv, sh), (top, left, bottom, right), (dv, dh))

    def same_window(self) -> Window:
        """One that keeps the size of any map."""
        height, width = 2 * self.number(0, 2) + 1, 2 * self.number(0, 2) + 1
        pads = (height // 2, width // 2, height // 2, width // 2)
        return Window((height, width), pads=pads)


def _convolution(sketch: Sketch) -> None:
    source = sketch.source()
    channels, *size = sketch.shapes[source]
    residual = sketch.number(0, 2) == 0
    window = sketch.same_window() if residual else sketch.window((size[0], size[1]))
    style = sketch.pick(["full", "full", "depthwise", "grouped"])
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    groups = {"full": 1, "depthwise": channels}.get(style) or sketch.pick(divisors)
    out = groups * sketch.number(1, max(1, min(MOST_CHANNELS // groups, 20)))
    inputs = [source]
    if residual:
        alike = [n for n, s in sketch.shapes.items() if s[1:] == tuple(size) and s[0] % groups == 0]
        if alike:
            inputs.append(sketch.pick(alike))
            out = sketch.shapes[inputs[1]][0]
    sketch.add(
        Convolution,
        *inputs,
        weight=sketch.weights(out, channels // groups, *window.kernel),
        bias=sketch.vector(out),
        window=window,
        groups=groups,
        bounds=sketch.bounds(),
    )


def _pool(sketch: Sketch) -> None:
    source = sketch.source()
    shape = sketch.shapes[source]
    window = sketch.window((shape[1], shape[2]), pool=True)
    (top, left, bottom, right), overhang = window.pads, (0, 0)
    if sketch.number(0, 2):
        overhang = _overhang(window, shape)
    down, across = overhang
    wider = dataclasses.replace(window, pads=(top, left, bottom + down, right + across))
    if not count_averaged(AveragePool("", (), "", wider), shape).all():
        return  # a window that sees padding alone has no average and no largest number
    legal = bottom + down < window.kernel[0] and right + across < window.kernel[1]
    if sketch.number(0, 1):
        counted = bool(sketch.number(0, 2))
        if not counted:  # written as padding, which onnxruntime wants narrower than the kernel
            wider, overhang = wider if legal else window, (0, 0)
        sketch.add(AveragePool, source, window=wider, count_padding=counted, overhang=overhang)
    else:
        sketch.add(MaxPool, source, window=wider if legal else window)


def _overhang(window: Window, shape: Shape) -> tuple[int, int]:
    """Padding that rounds the output size up. None where a window would start beyond the map:
    onnx's shape inference and onnxruntime disagree on whether that one counts."""
    found = []
    for axis in range(2):
        before, after = window.pads[axis], window.pads[2 + axis]
        kernel, stride = window.kernel[axis], window.strides[axis]
        dilation = window.dilations[axis]
        size = shape[1 + axis]
        if (size + before + after - dilation * (kernel - 1) - 1) % stride:
            found.append(find_overhang(size, kernel, stride, before, after, dilation))
            if found[-1] == 0:
                return 0, 0
        else:
            found.append(0)
    return found[0], found[1]


def _join(sketch: Sketch) -> None:
    source = sketch.source()
    shape = sketch.shapes[source]
    alike = [name for name, other in sketch.shapes.items() if other[1:] == shape[1:]]
    if sketch.number(0, 1):
        others = [sketch.pick(alike) for _ in range(sketch.number(1, 2))]
        if shape[0] + sum(sketch.shapes[name][0] for name in others) <= 2 * MOST_CHANNELS:
            sketch.add(Concat, source, *others)
    else:
        equal = [name for name in alike if sketch.shapes[name] == shape]
        sketch.add(Add, source, sketch.pick(equal), bounds=sketch.bounds())


def _pointwise(sketch: Sketch) -> None:
    source = sketch.source()
    channels = sketch.shapes[source][0]
    if sketch.number(0, 1):
        sketch.add(Clamp, source, bounds=sketch.bounds() or Bounds())
    else:
        scale = sketch.random.standard_normal(channels).astype(np.float32)
        shift = sketch.vector(channels)
        sketch.add(Affine, source, scale=scale, shift=shift, bounds=sketch.bounds())


def _gate(sketch: Sketch) -> None:
    """A map times, plus or minus another, or one number for each channel, as squeeze-and-excite."""
    source = sketch.source()
    channels = sketch.shapes[source][0]
    function = sketch.pick(["add", "mul", "mul", "sub"])
    if sketch.number(0, 2) == 0:
        alike = [name for name, shape in sketch.shapes.items() if shape == sketch.shapes[source]]
        sketch.add(Combine, source, sketch.pick(alike), function=function, bounds=sketch.bounds())
        return
    flat = bool(sketch.number(0, 1))
    gate = sketch.add(GlobalAveragePool, source, flat=flat)
    if flat:
        weight = sketch.weights(channels, channels)
        gate = sketch.add(Linear, gate, weight=weight, bias=sketch.vector(channels))
    gate = sketch.add(Clamp, gate, bounds=sketch.pick(CURVES))
    sketch.add(Combine, source, gate, function=function, bounds=sketch.bounds())


def _picked(sketch: Sketch) -> None:
    """Pixels taken once, several times, not at all or in sums; or slopes for negative numbers."""
    source = sketch.source()
    channels, height, width = sketch.shapes[source]
    kind = sketch.number(0, 5)
    if kind == 0:
        sketch.add(PRelu, source, slope=sketch.vector(channels))
        return
    if kind < 3:
        scale, shift = sketch.vector(channels), sketch.vector(channels)
        # One channel, or equal ones, are their mean: what is left is rounding, divided by this.
        fields = {"scale": scale, "shift": shift, "epsilon": 0.5}
        sketch.add(Normalize, source, bounds=sketch.bounds(), **fields)
        return
    if kind == 3:
        places = [
            sketch.random.integers(0, size, (sketch.number(1, 4), sketch.number(1, MOST_PIXELS)))
            for size in (height, width)
        ]
        weights = [sketch.random.standard_normal(p.shape).astype(np.float32) for p in places]
        fields = {"rows": places[0], "columns": places[1]}
        fields |= {"row_weights": weights[0], "column_weights": weights[1]}
        sketch.add(Resample, source, **fields)
        return
    rows, columns = (
        np.sort(sketch.random.integers(0, size, sketch.number(1, min(2 * size, MOST_PIXELS))))
        for size in (height, width)
    )
    sketch.add(Pick, source, rows=rows, columns=columns)


def _rearranged(sketch: Sketch) -> None:
    """Numbers in another order and shape: blocks of channels as pixels, or any of them."""
    source = sketch.source()
    channels, height, width = sketch.shapes[source]
    index = np.arange(channels * height * width).reshape(channels, height, width)
    size = sketch.pick([1, 2, 3])
    if channels % (size * size) == 0 and max(height, width) * size <= 2 * MOST_PIXELS:
        rest = channels // (size * size)
        places = index[: size * size].reshape(size, size, height, width).transpose(2, 0, 3, 1)
        places, repeats, step = places.reshape(1, height * size, width * size), rest, size * size
    else:
        repeats, step = 1, 1
        shape = [sketch.number(1, 8) for _ in range(3)]
        places = sketch.random.integers(0, index.size, shape)
    sketch.add(Rearrange, source, places=places, repeats=repeats, step=step)


def _linear(sketch: Sketch, source: str) -> str:
    features = sketch.shapes[source][0]
    outputs = sketch.number(1, 70)
    return sketch.add(
        Linear,
        source,
        weight=sketch.weights(outputs, features),
        bias=sketch.vector(outputs),
        bounds=sketch.bounds(),
    )


def _head(sketch: Sketch) -> None:
    """From the last map to a vector, and on."""
    kind = sketch.pick(["none", "pool", "flat pool", "flatten", "flatten"])
    if kind == "none":
        return
    vector = sketch.last
    if kind != "flatten":
        vector = sketch.add(GlobalAveragePool, vector, flat=kind == "flat pool")
    if kind != "flat pool":
        vector = sketch.add(Flatten, vector)
    for _ in range(sketch.number(0, 2)):
        before, vector = vector, _linear(sketch, vector)
        if sketch.number(0, 4) == 0:
            vector = sketch.add(Concat, before, vector)
        if sketch.number(0, 4) == 0:
            vector = sketch.add(Add, vector, vector, bounds=sketch.bounds())
        if sketch.number(0, 4) == 0:
            length = sketch.shapes[vector][0]
            scale, shift = sketch.vector(length), sketch.vector(length)
            vector = sketch.add(Affine, vector, scale=scale, shift=shift)
        if sketch.number(0, 4) == 0:
            vector = sketch.add(Clamp, vector, bounds=Bounds(0.0))
    if sketch.number(0, 2) == 0:
        sketch.add(Softmax, vector)


_STEPS = (
    *[_convolution] * 4, _pool, _pool, _join, _join, _pointwise, _pointwise, _gate, _gate, _picked,
    _rearranged,
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn, most_layers: int = 7) -> Graph:
    """Graphs of one to `most_layers` layers and a head, for images of 1 to 24 pixels a side.

    All kinds of layers; dead layers and fusable ones among them, so `simplify` has work to do.
    """
    channels = draw(st.sampled_from([1, 1, 2, 3, 3, 4, 8, 17]))
    sides = st.integers(1, MOST_PIXELS)
    sketch = Sketch(draw, (channels, draw(sides), draw(sides)))
    for _ in range(draw(st.integers(1, most_layers))):
        step = draw(st.sampled_from(_STEPS))
        step(sketch)
    if not sketch.layers:
        _convolution(sketch)
    _head(sketch)
    return Graph("x", sketch.last, sketch.shapes, tuple(sketch.layers), "a random graph")
