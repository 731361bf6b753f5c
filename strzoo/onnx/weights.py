"""The layers of an ONNX graph and their weights, whatever the precision they are stored in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from strzoo.errors import IntegrityError
from strzoo.onnx.tensors import decode_tensor, read_sparse
from strzoo.settings import Limits

# Those of com.microsoft are what onnxruntime writes into files that it has optimised: the same
# layers with an activation or a scale behind them, or with the channels last.
CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "NhwcConv",
                "NhwcFusedConv")  # fmt: skip
LINEARS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "FusedGemm", "FusedMatMul",
           "TransposeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm")  # fmt: skip
STANDARD_DOMAINS = ("", "ai.onnx")
_MICROSOFT = "com.microsoft"
# Layers of onnxruntime's own domain whose weights are stored as those of the standard ones.
_FUSED = {"FusedConv", "NhwcConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "TransposeMatMul",
          "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QLinearConv"}  # fmt: skip
# Where the weight is among a node's inputs, for the operators that take quantised tensors.
_WEIGHT_INPUT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
_ZERO_POINT_INPUT = {
    "QLinearConv": 5,
    "QLinearMatMul": 5,
    "ConvInteger": 3,
    "MatMulInteger": 3,
    "MatMulIntegerToFloat": 5,
    "DynamicQuantizeMatMul": 3,
    "QGemm": 5,
}
# The weight's scale; ConvInteger and MatMulInteger leave theirs to later nodes.
_SCALE_INPUT = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 4),
    **{"MatMulIntegerToFloat": 3, "DynamicQuantizeMatMul": 2},
}
BIAS_INPUT = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv"), 2),
    **dict.fromkeys(("Gemm", "FusedGemm"), 2),
    **{"QLinearConv": 8, "MatMulIntegerToFloat": 6, "DynamicQuantizeMatMul": 4, "QGemm": 6},
}
_OUTPUTS_FIRST = ("Conv", "ConvInteger", "QLinearConv", "FusedConv")
_IN_BLOCKS = 0.98  # of the zeros; short blocks hold fewer than four
_BLOCK = 4  # input channels that an integer dot product takes at once
_THROUGH = ("Cast", "Identity", "Transpose", "Reshape", "QuantizeLinear")
_VALUES = ("value_float", "value_floats", "value_int", "value_ints")
_STEPS = 3  # between a quantised layer and its bias
_DEEPEST = 200  # nodes between a weight and its layer


@dataclass(frozen=True)
class WeightedNode:
    """A convolution or linear node with a constant weight.

    `weight` has real values (dequantised; of ConvInteger and MatMulInteger up to a scale that
    follows them, zero where the real weight is zero); `stored` is the tensor as the file holds it.
    """

    name: str
    type: str
    node: onnx.NodeProto
    weight: NDArray[Any]
    stored: NDArray[Any]

    @property
    def zeros(self) -> int:
        return int(self.weight.size - np.count_nonzero(self.weight))

    @property
    def zero_blocks(self) -> int | None:
        """Blocks of four input channels whose weights are all zero; None where the weight is not
        [out, in, ...]."""
        transposed = any(a.name == "transB" and a.i for a in self.node.attribute)
        if not (self.type in _OUTPUTS_FIRST or (self.type == "Gemm" and transposed)):
            return None
        starts = np.arange(0, self.weight.shape[1], _BLOCK)
        living = np.logical_or.reduceat(self.weight != 0, starts, axis=1)
        return int(living.size - np.count_nonzero(living))


Found = tuple[NDArray[Any], NDArray[Any], str]


class Constants:
    """Values of the tensors that do not depend on the input."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = {name: node for node in graph.node for name in node.output}
        self._found: dict[str, Found | None] = {}

    def find(self, name: str, depth: int = 0) -> Found | None:
        """Real values, stored values and name of the initializer behind `name`, or None.

        Raises:
            IntegrityError: a weight is computed from itself, or through too many nodes.
        """
        if depth > _DEEPEST:
            raise IntegrityError(f"{name[:60]!r} is computed from itself, or by too many nodes")
        if name not in self._found:
            self._found[name] = self._find(name, depth)
        return self._found[name]

    def is_fixed(self, name: str) -> bool:
        """Whether `name` depends on no input, through whatever operators."""
        waiting, seen = [name], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name in self._tensors or not name:
                continue
            seen.add(name)
            node = self._nodes.get(name)
            if node is None or len(seen) > _DEEPEST:
                return False
            waiting += node.input
        return True

    def size(self, name: str) -> int:
        """How many numbers the constant `name` holds; 0 if it is none."""
        if name in self._tensors:
            return math.prod(self._tensors[name].dims)
        node = self._nodes.get(name)
        if node is None or node.op_type != "Constant":
            return 0
        return next((math.prod(a.t.dims) for a in node.attribute if a.name == "value"), 1)

    def rank(self, name: str) -> int:
        """How many axes the constant `name` has; 0 if it is none."""
        if name in self._tensors:
            return len(self._tensors[name].dims)
        node = self._nodes.get(name)
        if node is None or node.op_type != "Constant":
            return 0
        return next((len(a.t.dims) for a in node.attribute if a.name == "value"), 1)

    def _find(self, name: str, depth: int) -> Found | None:
        if name in self._tensors:
            array = decode_tensor(self._tensors[name])
            return array, array, name
        node = self._nodes.get(name)
        if node is None or node.domain not in (*STANDARD_DOMAINS, _MICROSOFT):
            return None
        if node.op_type == "Constant":
            read = _read_constant(node)
            return None if read is None else (read, read, name)
        if node.op_type == "DequantizeLinear":
            return self._dequantised(node, depth)
        if node.op_type not in _THROUGH:
            return None
        behind = self.find(node.input[0], depth + 1)
        if behind is None:
            return None
        real, stored, origin = behind
        if node.op_type == "Transpose":
            real = real.transpose([i for a in node.attribute for i in a.ints] or None)
        elif node.op_type == "Reshape" and len(node.input) > 1:
            real = self._reshaped(real, node.input[1], depth)
        return real, stored, origin

    def _reshaped(self, array: NDArray[Any], shape: str, depth: int) -> NDArray[Any]:
        """`array` with the axes that the constant `shape` says, or its own if it is none."""
        given = self.find(shape, depth + 1)
        if given is None:
            return array
        sizes = [int(size) for size in given[0].ravel()]
        own = (*array.shape, *[0] * len(sizes))
        try:
            return array.reshape([size or own[axis] for axis, size in enumerate(sizes)])
        except (ValueError, OverflowError) as error:
            raise IntegrityError(
                f"{shape[:60]!r} does not fit the {array.size} weights that it reshapes"
            ) from error

    def _dequantised(self, node: onnx.NodeProto, depth: int) -> Found | None:
        behind, scale = (self.find(name, depth + 1) for name in node.input[:2])
        if behind is None or scale is None:
            return None
        _, stored, origin = behind
        given = len(node.input) > 2 and node.input[2]
        point = self.find(node.input[2], depth + 1) if given else None
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
    constants = Constants(model.graph)
    seen: Counter[str] = Counter()
    for index, node in enumerate(model.graph.node):
        if not is_layer(node):
            continue
        found = constants.find(weight_input(node))
        if found is None or found[0].ndim < 2:
            continue
        real, stored, origin = found
        axis = 0 if node.op_type in CONVOLUTIONS or _holds_rows(node) else real.ndim - 1
        for positions, change in ((_ZERO_POINT_INPUT, np.subtract), (_SCALE_INPUT, np.multiply)):
            position = positions.get(node.op_type, len(node.input))
            name = node.input[position] if position < len(node.input) else ""
            if (given := constants.find(name)) is not None:
                spread = _along(given[0].astype(np.float32), real.ndim, axis)
                real = change(real.astype(np.float32), spread)
        name = _layer_name(origin, node, index)
        seen[name] += 1
        if seen[name] > 1:  # of the same weight; other precisions have more nodes between them
            name = f"{name}#{seen[name]}"
        yield WeightedNode(name, node.op_type, node, real, stored)


def _holds_rows(node: onnx.NodeProto) -> bool:
    """Whether a linear holds its weight as [outputs, inputs]."""
    return any(a.name == "transB" and a.i for a in node.attribute)


def is_layer(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution or linear whose weights are understood."""
    if node.domain == _MICROSOFT:
        return node.op_type in _FUSED
    return node.domain in STANDARD_DOMAINS and node.op_type in CONVOLUTIONS + LINEARS


def weight_input(node: onnx.NodeProto) -> str:
    """The name of a layer's weight, "" if it has none."""
    position = _WEIGHT_INPUT.get(node.op_type, 1)
    return node.input[position] if len(node.input) > position else ""


def _read_constant(node: onnx.NodeProto) -> NDArray[Any] | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            return decode_tensor(attribute.t)
        if attribute.name == "sparse_value":
            sparse = attribute.sparse_tensor
            Limits.from_env().check("elements", math.prod(sparse.dims), f"constant {node.name!r}")
            return read_sparse(sparse, node.name or node.output[0])
        if attribute.name in _VALUES:
            return np.asarray(onnx.helper.get_attribute_value(attribute))
    return None


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


def find_block(nodes: list[WeightedNode]) -> int:
    """4 if (almost) all zeros come in blocks of four input channels, else 1."""
    counted = [(node.zeros, node.zero_blocks) for node in nodes if node.zero_blocks is not None]
    zeros, blocks = (sum(each) for each in zip(*counted, strict=True)) if counted else (0, 0)
    return _BLOCK if blocks and _BLOCK * blocks >= _IN_BLOCKS * zeros else 1


def added_biases(
    graph: onnx.GraphProto, layers: Sequence[WeightedNode], shapes: Mapping[str, Any]
) -> list[str]:
    """The biases that a node of their own adds to a layer without one, as MatMul needs it.

    Args:
        layers: of the graph.
        shapes: of its tensors by name.
    """
    constants = Constants(graph)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = []
    for layer in layers:
        own = BIAS_INPUT.get(layer.type)
        if own is not None and len(layer.node.input) > own and layer.node.input[own]:
            continue
        output = layer.node.output[0]
        made = list(shapes.get(output, ()))
        channels = made[1:2] if layer.type in CONVOLUTIONS else made[-1:]
        for _ in range(_STEPS):
            following = users.get(output, [])
            if len(following) != 1 or following[0].op_type not in ("Add", "Cast", "Mul"):
                break
            user = following[0]
            if user.op_type == "Add":
                other = next((name for name in user.input if name != output), "")
                size = math.prod(d or 0 for d in shapes.get(other, (0,)))
                if [size] == channels and constants.is_fixed(other):
                    found.append(other)
                break
            output = user.output[0]  # scales of quantised layers
    return found


def zero_percent(nodes: list[WeightedNode]) -> float:
    """Percent of zeros among the weights of `nodes`; 0 if there are none."""
    total = sum(node.weight.size for node in nodes)
    return 100.0 * sum(node.zeros for node in nodes) / total if total else 0.0
