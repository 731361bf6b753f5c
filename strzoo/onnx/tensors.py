"""Tensors and attributes of ONNX nodes, out of files that may be damaged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from strzoo.borders import shorten_cause
from strzoo.errors import IntegrityError, StrzooError, UsageError


def decode_tensor(tensor: onnx.TensorProto) -> NDArray[Any]:
    """The numbers in `tensor`.

    Raises:
        IntegrityError: it holds more or fewer than its shape says, or of a type that there is not.
        UsageError: they are in another file, which has not been read.
    """
    name = tensor.name[:60]
    if tensor.data_location == tensor.EXTERNAL and not tensor.raw_data:
        raise UsageError(f"the weights {name!r} are in another file: give the path of the model")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # onnx and numpy raise many kinds
        check_kind(tensor.data_type, f"the tensor {name!r}")
        raise IntegrityError(
            f"the tensor {name!r} is damaged ({shorten_cause(error)}); export the model again"
        ) from error


def spell_kind(kind: int, what: str) -> str:
    """The name of a data type by its number. Raises as `check_kind`."""
    check_kind(kind, what)
    name: str = onnx.TensorProto.DataType.Name(kind)
    return name.lower()


def check_kind(kind: int, what: str) -> None:
    """Raise an IntegrityError unless ONNX has a data type of that number; `what` has it."""
    if kind not in onnx.TensorProto.DataType.values():
        raise IntegrityError(
            f"{what} is damaged: there is no data type {kind}; export the model again"
        )


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name, as onnx gives their values.

    Raises:
        IntegrityError: one of them has no type.
    """
    found = {}
    for attribute in node.attribute:
        try:
            found[attribute.name] = onnx.helper.get_attribute_value(attribute)
        except ValueError:
            found[attribute.name] = None
        if found[attribute.name] is None:
            name = node.name or ", ".join(node.output)
            raise IntegrityError(
                f"{node.op_type[:60]} {name[:60]!r} is damaged: its attribute "
                f"{attribute.name[:60]!r} has no type; export the model again"
            )
    return found


def read_sparse(sparse: onnx.SparseTensorProto, source: str) -> np.ndarray:
    """The dense array of a sparse tensor.

    Raises:
        IntegrityError: an index lies outside its shape, or values and indices do not match.
        StrzooError: its values are in another file.
    """
    name, shape = sparse.values.name, tuple(sparse.dims)
    for part in (sparse.values, sparse.indices):
        if part.data_location == part.EXTERNAL:
            raise StrzooError(f"{source}: the values of {name[:60]!r} are in another file")
    values = decode_tensor(sparse.values).reshape(-1)
    indices = decode_tensor(sparse.indices).astype(np.int64)
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        inside = bool(((indices >= 0) & (indices < np.array(shape))).all())
        flat = np.ravel_multi_index(tuple(indices.T), shape) if inside and len(indices) else (
            np.zeros(0, np.int64)
        )  # fmt: skip
    else:
        flat = indices.reshape(-1)
        inside = indices.ndim == 1 and bool(((flat >= 0) & (flat < math.prod(shape))).all())
    if not inside or len(flat) != len(values):
        raise IntegrityError(f"{source}: the indices of sparse tensor {name[:60]!r} do not fit it")
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[flat] = values
    return dense.reshape(shape)
