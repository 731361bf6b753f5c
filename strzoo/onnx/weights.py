"""The layers of an ONNX graph and their weights, whatever the precision they are stored in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv")
LINEARS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
# Where the weight is among a node's inputs, for the operators that take quantised tensors.
_WEIGHT_INPUT = {"QLinearConv": 3, "QLinearMatMul": 3}
_ZERO_POINT_INPUT = {"QLinearConv": 5, "QLinearMatMul": 5, "ConvInteger": 3, "MatMulInteger": 3}
_THROUGH = ("Cast", "Identity", "Transpose", "Reshape", "QuantizeLinear")


@dataclass(frozen=True)
class WeightedNode:
    """A convolution or linear node with a constant weight.

    `weight` has real values (dequantised; for integer operators up to their scale, zero where the
    real weight is zero); `stored` is the tensor as the file holds it.
    """

    name: str
    type: str
    node: onnx.NodeProto
    weight: NDArray[Any]
    stored: NDArray[Any]

    @property
    def zeros(self) -> int:
        return int(self.weight.size - np.count_nonzero(self.weight))


class _Constants:
    """Values of the tensors that do not depend on the input."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = {name: node for node in graph.node for name in node.output}

    def find(self, name: str) -> tuple[NDArray[Any], NDArray[Any], str] | None:
        """Real values, stored values and name of the initializer behind `name`, or None."""
        if name in self._tensors:
            array = numpy_helper.to_array(self._tensors[name])
            return array, array, name
        node = self._nodes.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    array = numpy_helper.to_array(attribute.t)
                    return array, array, name
            return None
        if node.op_type == "DequantizeLinear":
            return self._dequantised(node)
        if node.op_type not in _THROUGH:
            return None
        behind = self.find(node.input[0])
        if behind is None:
            return None
        real, stored, origin = behind
        if node.op_type == "Transpose":
            real = real.transpose([i for a in node.attribute for i in a.ints] or None)
        return real, stored, origin

    def _dequantised(self, node: onnx.NodeProto) -> tuple[NDArray[Any], NDArray[Any], str] | None:
        behind, scale = self.find(node.input[0]), self.find(node.input[1])
        if behind is None or scale is None:
            return None
        _, stored, origin = behind
        point = self.find(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        zero = np.zeros_like(scale[0]) if point is None else point[0]
        if zero.ndim > 1:  # blocks of a scale each: repeat it over its block
            size = stored.shape[axis] // zero.shape[axis]
            spread = [
                np.repeat(values.astype(np.float32), size, axis) for values in (zero, scale[0])
            ]
        else:
            spread = [_along(v.astype(np.float32), stored.ndim, axis) for v in (zero, scale[0])]
        return (stored.astype(np.float32) - spread[0]) * spread[1], stored, origin


def weighted_nodes(model: onnx.ModelProto) -> Iterator[WeightedNode]:
    """Each convolution and linear of the main graph whose weight is constant, in graph order.

    A layer is named after its weight tensor (without ".weight" and what quantisation adds),
    else after its node.
    """
    constants = _Constants(model.graph)
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if node.op_type not in CONVOLUTIONS + LINEARS:
            continue
        position = _WEIGHT_INPUT.get(node.op_type, 1)
        found = constants.find(node.input[position]) if len(node.input) > position else None
        if found is None or found[0].ndim < 2:
            continue
        real, stored, origin = found
        point = _ZERO_POINT_INPUT.get(node.op_type, len(node.input))
        if point < len(node.input) and (zero := constants.find(node.input[point])) is not None:
            axis = 0 if node.op_type in CONVOLUTIONS else real.ndim - 1
            real = real.astype(np.float32) - _along(zero[0].astype(np.float32), real.ndim, axis)
        name = _layer_name(origin, node, index)
        if name in seen:
            name = f"{name}#{index}"
        seen.add(name)
        yield WeightedNode(name, node.op_type, node, real, stored)


def _along(values: NDArray[Any], dimensions: int, axis: int) -> NDArray[Any]:
    """One value, or one per position of `axis`, shaped to broadcast over `dimensions`."""
    shape = [1] * dimensions
    if values.size > 1:
        shape[axis] = values.size
    return values.reshape(shape)


def _layer_name(origin: str, node: onnx.NodeProto, index: int) -> str:
    base = origin.removesuffix("_quantized")
    if base.endswith(".weight"):
        return base.removesuffix(".weight")
    return node.name or base or f"{node.op_type}_{index}"


def zero_percent(nodes: list[WeightedNode]) -> float:
    """Percent of zeros among the weights of `nodes`; 0 if there are none."""
    total = sum(node.weight.size for node in nodes)
    return 100.0 * sum(node.zeros for node in nodes) / total if total else 0.0
