"""Other floats read as fp32: fp16 and bfloat16 numbers are fp32 numbers; float64 is rounded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from strzoo.onnx.tensors import decode_tensor

_OTHERS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
_KINDS = ("to", "dtype", "output_dtype", "stash_type")  # attributes that name a type


def unify_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, or a copy that has fp32 wherever `model` has other floats."""
    if not any(_is_other(kind) for kind in _list_kinds(model.graph)):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _unify_graph(made.graph)
    return made


def _is_other(kind: int) -> bool:
    return kind in _OTHERS


def _list_kinds(graph: onnx.GraphProto) -> Iterator[int]:
    for tensor in graph.initializer:
        yield tensor.data_type
    for value in (*graph.input, *graph.output):
        yield value.type.tensor_type.elem_type
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t.data_type
            if attribute.name in _KINDS:
                yield attribute.i
            for inner in (attribute.g, *attribute.graphs):
                yield from _list_kinds(inner)


def _unify_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _unify_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _is_other(value.type.tensor_type.elem_type):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            _unify_tensor(attribute.t)
            if attribute.name in _KINDS and _is_other(attribute.i):
                attribute.i = onnx.TensorProto.FLOAT
            for inner in (attribute.g, *attribute.graphs):
                _unify_graph(inner)


def _unify_tensor(tensor: onnx.TensorProto) -> None:
    if _is_other(tensor.data_type) and tensor.data_location != tensor.EXTERNAL:
        array = decode_tensor(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
