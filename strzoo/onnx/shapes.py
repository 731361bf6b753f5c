"""Shapes of the tensors of an ONNX graph, for one image of a size. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from strzoo.errors import IntegrityError, UsageError
from strzoo.onnx.files import real_inputs
from strzoo.onnx.fused import expand_fused

# What makes a long constant of a short one, and what onnx computes when it infers shapes.
_UNFOLDING = ("Range", "ConstantOfShape", "Expand", "Tile")
_UNFOLDED = ("Add", "Sub", "Mul", "Cast", "Gather", "Slice", "Unsqueeze", "Squeeze", "Size")
_LONGEST_SHAPE = 100_000

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Inferred:
    """A graph whose fused operators are written out, and the shapes of its tensors by name.

    Axes of unknown size are None; `batch` is the size of the first axis of the first input.
    """

    model: onnx.ModelProto
    shapes: Mapping[str, Shape]
    batch: int


def infer_shapes(
    model: onnx.ModelProto, input_size: tuple[int, ...] | None, shown: str
) -> Inferred:
    """The shapes of all tensors of `model`, with a batch of 1 where the batch is open.

    Args:
        model: with its weights.
        input_size: the first input's axes after the batch, where the model leaves them open.
        shown: how messages call the model.

    Raises:
        UsageError: the input size is needed, or contradicts the model.
        IntegrityError: the shapes contradict each other.
    """
    opened = expand_fused(_with_input_size(model, input_size), shapes_only=True)
    try:
        inferred = onnx.shape_inference.infer_shapes(opened, data_prop=_may_propagate(opened.graph))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise IntegrityError(
            f"{shown}: shape inference fails ({' '.join(str(error).split())[:160]})"
        ) from error
    graph = inferred.graph
    known = [*graph.value_info, *graph.input, *graph.output]
    shapes = {value.name: _dimensions(value) for value in known}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return Inferred(inferred, shapes, _batch(inferred))


def _with_input_size(model: onnx.ModelProto, input_size: tuple[int, ...] | None) -> onnx.ModelProto:
    """`model` with a batch of 1 where the batch is open and the first input's size filled in."""
    inputs = real_inputs(model)
    if not inputs:
        return model
    closed = onnx.ModelProto()
    closed.CopyFrom(model)
    value = real_inputs(closed)[0]
    dims = value.type.tensor_type.shape.dim
    if input_size is not None and len(dims) != len(input_size) + 1:
        raise UsageError(
            f"input {value.name!r} has {max(len(dims) - 1, 0)} axes after the batch, the input "
            f"size {'x'.join(map(str, input_size))} has {len(input_size)}"
        )
    for index, dim in enumerate(dims):
        if index == 0:
            dim.dim_value = dim.dim_value or 1
        elif input_size is not None:
            if dim.dim_value and dim.dim_value != input_size[index - 1]:
                raise UsageError(
                    f"axis {index} of input {value.name!r} is fixed at {dim.dim_value}; "
                    f"the input size says {input_size[index - 1]}"
                )
            dim.dim_value = input_size[index - 1]
        elif not dim.dim_value:
            raise UsageError(
                f"axis {index} of input {value.name!r} has no fixed size; pass the input size "
                "(--input-size)"
            )
    stale = [i for i, v in enumerate(closed.graph.value_info) if _is_open(v)]
    for index in reversed(stale):
        del closed.graph.value_info[index]
    for output in closed.graph.output:
        if _is_open(output):
            output.type.tensor_type.ClearField("shape")
    return closed


def _may_propagate(graph: onnx.GraphProto) -> bool:
    """Whether shapes may be inferred through shapes that are computed: onnx writes such constants
    out, however long they are."""
    sizes = {
        tensor.name: math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    }
    for node in graph.node:
        if node.op_type in _UNFOLDING:
            return False
        given = [sizes.get(name, 1) for name in node.input]
        size = sum(given) if node.op_type == "Concat" else max(given, default=1)
        if size > _LONGEST_SHAPE and node.op_type in (*_UNFOLDED, "Concat"):
            return False
        sizes |= dict.fromkeys(node.output, size)
    return True


def _is_open(value: onnx.ValueInfoProto) -> bool:
    return any(not d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)


def _dimensions(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def _batch(model: onnx.ModelProto) -> int:
    inputs = real_inputs(model)
    shape = _dimensions(inputs[0]) if inputs else ()
    return shape[0] or 1 if shape else 1
