"""Tensors that do not depend on the images: weights, and the shape arithmetic exporters leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from strzoo.engine.frontend.problems import Unsupported

# The batch in the shape arithmetic, where it may be any number: no file holds this value.
BATCH = -(2**31) + 11

# Folded where all inputs are constant. Nothing here makes a result much larger than its inputs.
_MOVING = {"Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
_COMPUTING = {"Add", "Div", "Mul", "Neg", "Reciprocal", "Sqrt", "Sub"}
_VALUES = ("value_float", "value_floats", "value_int", "value_ints")
FOLDABLE = _MOVING | _COMPUTING | {"Cast", "Constant"}


class Constants:
    """Constant tensors by name; those of the file are decoded when first asked for."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays: dict[str, np.ndarray] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = decode(self._tensors[name])
        return self._arrays[name]

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array

    def fold(self, node: onnx.NodeProto, opset: int) -> bool:
        """Compute the output of `node` if it is constant; whether it was.

        Raises:
            Unsupported: it computes with the batch size.
        """
        if node.op_type not in FOLDABLE or node.domain not in ("", "ai.onnx"):
            return False
        names = [name for name in node.input if name]
        if any(name not in self for name in names):
            return False
        self[node.output[0]] = self._compute(node, {name: self[name] for name in names}, opset)
        return True

    def _compute(
        self, node: onnx.NodeProto, inputs: dict[str, np.ndarray], opset: int
    ) -> np.ndarray:
        if node.op_type == "Constant":
            return _read_constant(node)
        if node.op_type == "Identity":
            return inputs[node.input[0]]
        moved = node.op_type in _MOVING or (node.op_type == "Cast" and _to_integer(node))
        if not moved and any(_holds_batch(array) for array in inputs.values()):
            raise Unsupported("it computes with the batch size")
        from onnx.reference import ReferenceEvaluator  # few files need it

        results: Any = ReferenceEvaluator(node, opsets={"": opset}).run(None, inputs)
        return np.asarray(results[0])


def decode(tensor: onnx.TensorProto) -> np.ndarray:
    """The array in `tensor`.

    Raises:
        Unsupported: it is in an external file that has not been read.
    """
    if tensor.data_location == tensor.EXTERNAL and not tensor.raw_data:
        raise Unsupported(
            f"the weights {tensor.name!r} are in another file: give the path, not the model"
        )
    return np.asarray(numpy_helper.to_array(tensor))


def _read_constant(node: onnx.NodeProto) -> np.ndarray:
    for attribute in node.attribute:
        if attribute.name == "value":
            return decode(attribute.t)
        if attribute.name in _VALUES:
            kind = np.float32 if "float" in attribute.name else np.int64
            return np.asarray(onnx.helper.get_attribute_value(attribute), dtype=kind)
    raise Unsupported("a constant that is sparse or text")


def _holds_batch(array: np.ndarray) -> bool:
    return array.dtype.kind == "i" and bool((array == BATCH).any())


def _to_integer(node: onnx.NodeProto) -> bool:
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return any(a.name == "to" and a.i in kinds for a in node.attribute)
