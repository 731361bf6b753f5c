"""The graph: typed layers over named values, in execution order.

The front end reads it from an ONNX file, the passes rewrite it, later stages lay it out and lower
it. Values are those of one image: (channels, height, width) for feature maps, (features,) for
vectors. Batches are handled when a plan runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Shape = tuple[int, ...]
Pads = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Bounds:
    """y = min(max(x, low), high): ReLU is Bounds(0), ReLU6 is Bounds(0, 6).

    Another `function` of x than "clamp" is one of `ir.functions`, whose parameters are `low` and
    `high`.
    """

    low: float = float("-inf")
    high: float = float("inf")
    function: str = "clamp"

    @property
    def clamps(self) -> bool:
        return self.function == "clamp"


@dataclass(frozen=True)
class Layer:
    """One operation. `name` is unique and that of the ONNX node it came from."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Window:
    """How a convolution or a pool moves over a map; (vertical, horizontal) each."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Convolution(Layer):
    """weight [out, in / groups, kh, kw], bias [out], fp32. A second input is added to the result
    before `bounds` apply: the residual of a fused Add."""

    weight: np.ndarray
    bias: np.ndarray
    window: Window
    groups: int = 1
    bounds: Bounds | None = None


@dataclass(frozen=True)
class Linear(Layer):
    """weight [out, in], bias [out], fp32; of a vector."""

    weight: np.ndarray
    bias: np.ndarray
    bounds: Bounds | None = None


@dataclass(frozen=True)
class Affine(Layer):
    """Per-channel scale * x + shift, both [channels]: a BatchNormalization that stands alone.

    Of a map, or of a vector, whose features are the channels.
    """

    scale: np.ndarray
    shift: np.ndarray
    bounds: Bounds | None = None


@dataclass(frozen=True)
class MaxPool(Layer):
    """Padding counts as minus infinity."""

    window: Window


@dataclass(frozen=True)
class AveragePool(Layer):
    """`count_padding` divides by the whole window, otherwise by its part inside the map.

    `overhang` is how many rows (bottom) and columns (right) of the padding are not counted even
    then: those that rounding the output size up has added.
    """

    window: Window
    count_padding: bool = False
    overhang: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """[C, H, W] -> [C, 1, 1], or [C] if `flat`."""

    flat: bool = False


@dataclass(frozen=True)
class Add(Layer):
    """Two inputs of the same shape."""

    bounds: Bounds | None = None


@dataclass(frozen=True)
class Combine(Layer):
    """Two inputs, value by value: `function` is "add", "sub", "mul" or "div".

    The second has the shape of the first, or one value for each channel of a map: [C] or
    [C, 1, 1].
    """

    function: str
    bounds: Bounds | None = None


@dataclass(frozen=True)
class Pick(Layer):
    """Pixels of a map: (y, x) of the result is (rows[y], columns[x]) of the input."""

    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Resample(Layer):
    """Weighted sums of pixels of a map: (y, x) of the result is the sum over i and j of
    row_weights[i, y] * column_weights[j, x] times (rows[i, y], columns[j, x]) of the input."""

    rows: np.ndarray
    row_weights: np.ndarray
    columns: np.ndarray
    column_weights: np.ndarray


@dataclass(frozen=True)
class Rearrange(Layer):
    """Numbers of a map, or of a vector, as another map.

    The numbers of the input are counted channel by channel; the features of a vector are channels
    of one pixel. Number (y, x) of channel r * P + p of the result, for places [P, height, width]
    and r in range(repeats), is the one at places[p, y, x] behind the first r * step channels.
    """

    places: np.ndarray
    repeats: int = 1
    step: int = 1


@dataclass(frozen=True)
class Normalize(Layer):
    """Over the channels of each pixel of a map, or the features of a vector: less their mean, over
    the root of variance + epsilon, times scale, plus shift, both [channels]."""

    scale: np.ndarray
    shift: np.ndarray
    epsilon: float
    bounds: Bounds | None = None


@dataclass(frozen=True)
class PRelu(Layer):
    """x where it is positive, else slope * x, with slopes [channels]."""

    slope: np.ndarray


@dataclass(frozen=True)
class Clamp(Layer):
    """Relu, Clip or another function that stands alone."""

    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Concat(Layer):
    """Along the channels (of maps) or the features (of vectors)."""


@dataclass(frozen=True)
class Flatten(Layer):
    """[C, H, W] -> [C * H * W], channels first."""


@dataclass(frozen=True)
class Softmax(Layer):
    """Of a vector."""


@dataclass(frozen=True)
class Graph:
    """layers in an order in which every input is made before its use.

    `input` and `output` are the first of the values that are given and asked for, `more_inputs`
    and `more_outputs` the others. `shapes` holds the shape of every value. `source` names the file
    or model for messages.
    """

    input: str
    output: str
    shapes: dict[str, Shape]
    layers: tuple[Layer, ...]
    source: str = ""
    more_inputs: tuple[str, ...] = ()
    more_outputs: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input, *self.more_inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output, *self.more_outputs)
