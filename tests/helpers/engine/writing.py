"""Graphs of ours written as ONNX models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
    Shape,
    Softmax,
    Window,
)


def to_onnx(graph: Graph, batch: int | str = "N", opset: int = 19) -> onnx.ModelProto:
    """`graph` in plain ONNX operators."""
    writer = _Writer(opset, graph.shapes)
    for layer in graph.layers:
        writer.write(layer)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *graph.shapes["x"]])
    shape = [batch, *graph.shapes[graph.output]]
    result = helper.make_tensor_value_info(graph.output, TensorProto.FLOAT, shape)
    body = helper.make_graph(writer.nodes, "random", [image], [result], writer.tensors)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


class _Writer:
    def __init__(self, opset: int, shapes: dict[str, Shape]) -> None:
        self.opset, self.shapes = opset, shapes
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def tensor(self, array: np.ndarray) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, operator: str, layer: Layer, inputs: Iterable[str], **attributes: Any) -> str:
        """Adds a node and returns what it makes."""
        output = f"v{len(self.nodes)}"
        name = f"{layer.name}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name, **attributes))
        return output

    def write(self, layer: Layer) -> None:
        value = self.compute(layer)
        bounds = getattr(layer, "bounds", None)
        if bounds == Bounds(0.0):
            value = self.node("Relu", layer, [value])
        elif bounds is not None and not bounds.clamps:
            value = self.curve(layer, value, bounds)
        elif bounds is not None:
            limits = [self.tensor(np.float32(b)) for b in (bounds.low, bounds.high)]
            value = self.node("Clip", layer, [value, *limits])
        self.nodes.append(helper.make_node("Identity", [value], [layer.output]))

    def compute(self, layer: Layer) -> str:
        x = layer.inputs[0]
        if isinstance(layer, Convolution):
            inputs = [x, self.tensor(layer.weight), self.tensor(layer.bias)]
            y = self.node("Conv", layer, inputs, group=layer.groups, **_window(layer.window))
            return self.node("Add", layer, [y, layer.inputs[1]]) if layer.inputs[1:] else y
        if isinstance(layer, Linear):
            inputs = [x, self.tensor(layer.weight), self.tensor(layer.bias)]
            return self.node("Gemm", layer, inputs, transB=1)
        if isinstance(layer, Affine):
            return self.node("BatchNormalization", layer, [x, *self.statistics(layer)], epsilon=0.0)
        if isinstance(layer, MaxPool):
            return self.node("MaxPool", layer, [x], **_window(layer.window))
        if isinstance(layer, AveragePool):
            fields = _window(layer.window)
            if any(layer.overhang):
                (top, left, bottom, right), (down, across) = layer.window.pads, layer.overhang
                fields |= {"ceil_mode": 1, "pads": [top, left, bottom - down, right - across]}
            fields["count_include_pad"] = int(layer.count_padding)
            return self.node("AveragePool", layer, [x], **fields)
        if isinstance(layer, GlobalAveragePool):
            y = self.node("GlobalAveragePool", layer, [x])
            return self.node("Flatten", layer, [y]) if layer.flat else y
        if isinstance(layer, Add | Concat):
            fields = {"axis": 1} if isinstance(layer, Concat) else {}
            return self.node(type(layer).__name__, layer, layer.inputs, **fields)
        if isinstance(layer, Flatten):
            target = self.tensor(np.array([0, -1], np.int64))
            return self.node("Reshape", layer, [x, target])
        if isinstance(layer, Softmax):
            return self.node("Softmax", layer, [x], axis=1)
        if isinstance(layer, Combine):
            y = layer.inputs[1]
            if self.shapes[y] == self.shapes[x][:1] and len(self.shapes[x]) == 3:
                y = self.node("Unsqueeze", layer, [y, self.tensor(np.array([2, 3]))])
            return self.node(layer.function.capitalize(), layer, [x, y])
        if isinstance(layer, Normalize):
            inputs = [self.tensor(layer.scale), self.tensor(layer.shift)]
            fields = {"epsilon": layer.epsilon}
            if len(self.shapes[x]) == 1:
                return self.node("LayerNormalization", layer, [x, *inputs], **fields)
            turned = self.node("Transpose", layer, [x], perm=[0, 2, 3, 1])
            y = self.node("LayerNormalization", layer, [turned, *inputs], **fields)
            return self.node("Transpose", layer, [y], perm=[0, 3, 1, 2])
        if isinstance(layer, PRelu):
            shape = (-1, *[1] * (len(self.shapes[x]) - 1))
            return self.node("PRelu", layer, [x, self.tensor(layer.slope.reshape(shape))])
        if isinstance(layer, Pick):
            rows = self.node("Gather", layer, [x, self.tensor(layer.rows)], axis=2)
            return self.node("Gather", layer, [rows, self.tensor(layer.columns)], axis=-1)
        if isinstance(layer, Rearrange):
            return self.rearranged(layer)
        assert isinstance(layer, Clamp)
        return x

    def rearranged(self, layer: Rearrange) -> str:
        """Its numbers out of all those of an image in a row."""
        rest = self.shapes[layer.inputs[0]][1:]
        behind = layer.step * math.prod(rest) * np.arange(layer.repeats)
        index = np.add.outer(behind, layer.places.reshape(-1)).reshape(-1)
        flat = self.node("Flatten", layer, [layer.inputs[0]])
        taken = self.node("Gather", layer, [flat, self.tensor(index)], axis=1)
        shape = self.tensor(np.array([0, *self.shapes[layer.output]]))
        return self.node("Reshape", layer, [taken, shape])

    def curve(self, layer: Layer, x: str, bounds: Bounds) -> str:
        name = bounds.function
        if name == "silu":
            return self.node("Mul", layer, [x, self.node("Sigmoid", layer, [x])])
        if name == "gelu":
            scaled = self.node("Div", layer, [x, self.tensor(np.float32(np.sqrt(2)))])
            erf = self.node("Erf", layer, [scaled])
            shifted = self.node("Add", layer, [erf, self.tensor(np.float32(1))])
            product = self.node("Mul", layer, [x, shifted])
            return self.node("Mul", layer, [product, self.tensor(np.float32(0.5))])
        operators = {"leaky": "LeakyRelu", "hardswish": "HardSwish", "hardsigmoid": "HardSigmoid"}
        fields = {"alpha": bounds.low} if name in ("leaky", "elu", "hardsigmoid") else {}
        if name == "hardsigmoid":
            fields["beta"] = bounds.high
        return self.node(operators.get(name, name.capitalize()), layer, [x], **fields)

    def statistics(self, layer: Affine) -> list[str]:
        """Gain, offset, mean 0.5 and variance 4 that amount to the layer's scale and shift."""
        half, four = np.full_like(layer.scale, 0.5), np.full_like(layer.scale, 4)
        parts = (2 * layer.scale, layer.shift + layer.scale / 2, half, four)
        return [self.tensor(part) for part in parts]


def _window(window: Window) -> dict[str, object]:
    return {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
    }
