"""Random ONNX networks of the operators that exporters write, for hypothesis: `networks()`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
MOST_PIXELS, MOST_CHANNELS = 24, 32
MODES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")


class Network:
    """A network that grows at its end, a map `last` of `shape`: `draw` decides, `random` fills in
    the weights."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.random = np.random.default_rng(self.number(0, 2**32 - 1))
        self.shape = (self.pick([1, 3, 4, 8, 12]), self.number(1, 12), self.number(1, 12))
        self.first = self.shape
        self.last = "x"
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, choices: list[Any]) -> Any:
        return self.draw(st.sampled_from(choices))

    def constant(self, array: Any) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape: int) -> str:
        dense = self.random.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        dense[self.random.random(shape) < self.pick([0.0, 0.5, 0.9])] = 0
        return self.constant(dense.astype(np.float32))

    def add(self, operator: str, *more: str, inputs: list[str] | None = None, **fields: Any) -> str:
        """Add a node of the last value, or of `inputs`, and `more`; what it makes is the last."""
        name = f"v{len(self.nodes)}"
        given = [*(inputs or [self.last]), *more]
        self.nodes.append(helper.make_node(operator, given, [name], name, **fields))
        self.last = name
        return name

    def reshape(self, *shape: int) -> None:
        self.add("Reshape", self.constant(np.array(shape)))

    def model(self) -> onnx.ModelProto:
        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
            for name, shape in (("x", self.first), ("y", self.shape))
        ]
        self.nodes.append(helper.make_node("Identity", [self.last], ["y"]))
        graph = helper.make_graph(self.nodes, "random", ports[:1], ports[1:], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 10
        onnx.checker.check_model(model)
        return model


def _convolution(net: Network) -> None:
    channels, out = net.shape[0], net.number(1, 16)
    net.add("Conv", net.weights(out, channels, 3, 3), pads=[1, 1, 1, 1])
    net.shape = (out, *net.shape[1:])


def _transposed(net: Network) -> None:
    channels, *sides = net.shape
    group = net.pick([g for g in (1, 2, 4) if channels % g == 0])
    out = net.number(1, 4)
    fields, made = [], []
    for size in sides:
        kernel, stride, dilation = net.number(1, 4), net.number(1, 3), net.number(1, 2)
        extra, span = net.number(0, stride - 1), dilation * (kernel - 1) + 1
        whole = stride * (size - 1) + span + extra
        before = net.number(0, min(span - 1, (whole - 1) // 2))
        after = net.number(0, min(span - 1, (whole - 1) // 2))
        fields.append((kernel, stride, dilation, extra, before, after))
        made.append(whole - before - after)
    if max(made) > 2 * MOST_PIXELS:
        return
    (kernels, strides, dilations, extras, befores, afters) = zip(*fields, strict=True)
    weights = net.weights(channels, out, *kernels)
    bias = net.weights(out * group)
    net.add(
        "ConvTranspose", weights, bias, group=group, strides=strides, dilations=dilations,
        output_padding=extras, pads=[*befores, *afters],
    )  # fmt: skip
    net.shape = (out * group, made[0], made[1])


def _shuffled(net: Network) -> None:
    channels, height, width = net.shape
    groups = net.pick([g for g in range(1, channels + 1) if channels % g == 0])
    net.reshape(0, groups, channels // groups, height, width)
    net.add("Transpose", perm=[0, 2, 1, 3, 4])
    net.reshape(0, channels, height, width)


def _turned(net: Network) -> None:
    perm = net.pick([[0, 2, 1, 3], [0, 1, 3, 2], [0, 3, 1, 2], [0, 2, 3, 1]])
    shape = tuple(net.shape[axis - 1] for axis in perm[1:])
    if shape[0] <= MOST_CHANNELS:
        net.add("Transpose", perm=perm)
        net.shape = (shape[0], shape[1], shape[2])


def _blocks(net: Network) -> None:
    channels, height, width = net.shape
    if channels % 4 == 0 and max(height, width) <= MOST_PIXELS:
        net.add("DepthToSpace", blocksize=2, mode=net.pick(["DCR", "CRD"]))
        net.shape = (channels // 4, 2 * height, 2 * width)
    elif height % 2 == width % 2 == 0 and 4 * channels <= MOST_CHANNELS:
        net.add("SpaceToDepth", blocksize=2)
        net.shape = (4 * channels, height // 2, width // 2)


def _normalized(net: Network) -> None:
    channels, height, width = net.shape
    groups = net.pick([g for g in range(1, channels + 1) if channels % g == 0])
    scale, shift = net.weights(channels), net.weights(channels)
    # What is left of equal numbers is rounding, which a small epsilon would make large.
    if net.number(0, 1):
        net.add("GroupNormalization", scale, shift, num_groups=groups, epsilon=0.3)
        return
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    net.reshape(0, groups, -1)
    net.add("InstanceNormalization", net.constant(ones), net.constant(zeros), epsilon=0.3)
    net.reshape(-1, channels, height, width)
    for operator in ("Mul", "Add"):
        net.add(operator, net.weights(channels, 1, 1))


def _resized(net: Network) -> None:
    sides = [net.number(1, MOST_PIXELS) for _ in range(2)]
    scales = [(side + 0.1) / size for side, size in zip(sides, net.shape[1:], strict=True)]
    mode = net.pick(["linear", "linear", "cubic", "nearest"])
    fields = {"mode": mode, "coordinate_transformation_mode": net.pick([*MODES])}
    net.add("Resize", "", net.constant(np.array([1, 1, *scales], np.float32)), **fields)
    net.shape = (net.shape[0], sides[0], sides[1])


def _padded(net: Network) -> None:
    channels, height, width = net.shape
    mode = net.pick(["constant", "reflect", "edge", "wrap"])
    pads = [net.number(0, min(3, size - 1)) for size in (height, width) * 2]
    number = net.constant(np.float32(net.pick([0, 0, 0.5, -1])))
    table = [0, 0, *pads[:2], 0, 0, *pads[2:]]
    net.add("Pad", net.constant(np.array(table)), number, mode=mode)
    net.shape = (channels, height + pads[0] + pads[2], width + pads[1] + pads[3])


def _computed(net: Network) -> None:
    kind = net.number(0, 3)
    if kind == 0:
        before = net.last
        net.add(net.pick(["Sigmoid", "Softsign", "Mish", "Softplus", "Relu"]))
        net.add("Add", inputs=[net.last, before])
    elif kind == 1:
        net.add("Sigmoid")
        net.add("Pow", net.constant(np.float32(net.pick([0.5, 2, 3, 1.3, -0.7]))))
    elif kind == 2:
        net.add("Softplus")
        net.add("Log" if net.number(0, 1) else "Softsign")
    else:
        net.add("BatchNormalization", *(
            net.constant(np.abs(net.random.standard_normal(net.shape[0])).astype(np.float32) + 0.5)
            for _ in range(4)
        ))  # fmt: skip


_STEPS: list[Callable[[Network], None]] = [
    _convolution, _convolution, _transposed, _transposed, _shuffled, _turned, _blocks, _normalized,
    _resized, _padded, _computed, _computed,
]  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Networks [N, C, H, W] -> [N, C', H', W'] of two to seven such operators."""
    net = Network(draw)
    for _ in range(net.number(2, 7)):
        net.pick(_STEPS)(net)
    _convolution(net)  # moves alone may cancel out and leave nothing to compile
    return net.model()
