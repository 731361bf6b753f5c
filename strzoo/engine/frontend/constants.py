"""Tensors that do not depend on the images: weights, and the shape arithmetic exporters leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.folding import CAST, COMPUTING, MOVING, check_size
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.parts import MANY as BATCH  # the batch where it may be any number
from strzoo.onnx.tensors import decode_tensor, read_sparse
from strzoo.settings import Limits

_VALUES = ("value_float", "value_floats", "value_int", "value_ints")
# Folded where all inputs are constant.
FOLDABLE = {*MOVING, *COMPUTING, "Cast", "Constant"}


class Constants:
    """Constant tensors by name; those of the file are decoded when first asked for.

    `batch` is the number of images that the file fixes, or None.
    """

    def __init__(self, graph: onnx.GraphProto, batch: int | None = None) -> None:
        self._batch = batch
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays: dict[str, np.ndarray] = {}
        self._folded = 0  # bytes of what was computed

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = decode_tensor(self._tensors[name])
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
        if any(name and name not in self for name in node.input):
            return False
        inputs = [self[name] if name else None for name in node.input]
        made = self._compute(node, inputs, opset)
        if made.base is None:  # a view takes no memory
            self._folded += made.nbytes
            Limits.from_env().check("bytes", 2 * self._folded, "what is computed of constants")
        self[node.output[0]] = made
        return True

    def _compute(
        self, node: onnx.NodeProto, inputs: Sequence[np.ndarray | None], opset: int
    ) -> np.ndarray:
        if node.op_type == "Constant":
            return _read_constant(node)
        # What moves numbers may move the batch size, but not take a shape or an index from it.
        moved = node.op_type in MOVING or (node.op_type == "Cast" and _to_integer(node))
        looked_at = inputs if not moved else [] if node.op_type == "Concat" else inputs[1:]
        if any(array is not None and _holds_batch(array) for array in looked_at):
            if self._batch is None:
                raise Unsupported("it computes with the batch size")
            inputs = [self._fill(array) for array in inputs]
        rule = CAST if node.op_type == "Cast" else (MOVING | COMPUTING)[node.op_type]
        return rule(read_attributes(node), inputs, opset)

    def _fill(self, array: np.ndarray | None) -> np.ndarray | None:
        """`array` with the number of images where it belongs."""
        if array is None or self._batch is None or not _holds_batch(array):
            return array
        return np.where(array == BATCH, self._batch, array)


def _read_constant(node: onnx.NodeProto) -> np.ndarray:
    for attribute in node.attribute:
        if attribute.name == "value":
            return decode_tensor(attribute.t)
        if attribute.name == "sparse_value":
            check_size(attribute.sparse_tensor.dims, np.dtype(np.float32), "a sparse constant")
            return read_sparse(attribute.sparse_tensor, "the model")
        if attribute.name in _VALUES:
            kind = np.float32 if "float" in attribute.name else np.int64
            return np.asarray(onnx.helper.get_attribute_value(attribute), dtype=kind)
    raise Unsupported("a constant that is text")


def _holds_batch(array: np.ndarray) -> bool:
    return array.dtype.kind == "i" and bool((array == BATCH).any())


def _to_integer(node: onnx.NodeProto) -> bool:
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return any(a.name == "to" and a.i in kinds for a in node.attribute)
