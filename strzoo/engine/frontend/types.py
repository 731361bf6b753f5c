"""Types and shapes of what nodes make that the engine does not read, by ONNX's own rules."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from strzoo.engine.frontend.constants import BATCH, Constants

# Stands for an open number of images in shapes: a prime that no layer has as its size.
PROBE = 1_000_003
Types = dict[str, onnx.TypeProto]


def tensor_type(kind: int, shape: tuple[int, ...] | None) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(kind, shape)


def infer_types(
    node: onnx.NodeProto,
    known: Mapping[str, onnx.TypeProto],
    constants: Constants,
    versions: list[onnx.OperatorSetIdProto],
    batch: int,
) -> Types:
    """The types of the outputs of `node`; none where ONNX cannot tell.

    Args:
        known: types of the inputs that are not constants.
        batch: the number of images, or PROBE.
    """
    types, data = dict(known), {}
    for name in node.input:
        if name and name in constants:
            tensor = numpy_helper.from_array(fill_batch(constants[name], batch), name)
            types[name] = tensor_type(tensor.data_type, tuple(tensor.dims))
            if constants[name].size <= 4096:
                data[name] = tensor
    try:
        domain = {version.domain: version.version for version in versions}
        schema = onnx.defs.get_schema(node.op_type, domain.get(node.domain, 1), node.domain)
        made = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=versions
        )
        return dict(made)
    except Exception:  # onnx raises many kinds for what it does not know
        return {}


def count_macs(
    node: onnx.NodeProto, known: Mapping[str, onnx.TypeProto], made: Types, constants: Constants
) -> int:
    """Multiply-accumulates of a convolution or product for one image; 0 if shapes are unknown."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.input) < 2:
        return 0
    transposed = node.op_type == "ConvTranspose"
    dims = read_dims(known.get(node.input[0]) if transposed else made.get(node.output[0]))
    if dims is None:
        return 0
    count = math.prod(dims[1:])
    if node.input[1] not in constants:
        inner = read_dims(known.get(node.input[0]))
        return count * inner[-1] if inner else 0
    shape = constants[node.input[1]].shape
    if node.op_type in ("Conv", "ConvTranspose"):
        return count * math.prod(shape[1:])
    return count * shape[-1 if _flag(node, "transB") else 0]


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def fill_batch(array: np.ndarray, batch: int) -> np.ndarray:
    """`array` with the number of images where it belongs."""
    if array.dtype != np.int64 or not holds_batch(array):
        return array
    return np.where(array == BATCH, batch, array)


def holds_batch(array: np.ndarray) -> bool:
    """Whether an array of shapes holds the number of images."""
    return array.dtype == np.int64 and bool((array == BATCH).any())


def read_dims(kind: onnx.TypeProto | None) -> tuple[int, ...] | None:
    """The shape of an fp32 tensor if all of it is known."""
    if kind is None or kind.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return None
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = tuple(d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim)
    return dims if dims and min(dims) > 0 else None


def open_batch(kind: onnx.TypeProto) -> onnx.TypeProto:
    """`kind` without sizes that follow from PROBE."""
    made = onnx.TypeProto()
    made.CopyFrom(kind)
    for dim in made.tensor_type.shape.dim:
        if dim.dim_value % PROBE == 0:
            dim.Clear()
    return made
