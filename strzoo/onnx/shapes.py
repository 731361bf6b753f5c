"""The shapes of every tensor of an ONNX graph, for one size of its first input."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from strzoo.errors import IntegrityError, UsageError
from strzoo.onnx.files import real_inputs

# What makes a long constant of a short one, and what onnx computes when it infers shapes.
_UNFOLDING = ("Range", "ConstantOfShape", "Expand", "Tile")
_UNFOLDED = ("Add", "Sub", "Mul", "Cast", "Gather", "Slice", "Unsqueeze", "Squeeze", "Size")
_LONGEST_SHAPE = 100_000

Shape = tuple[int | None, ...]


def infer_shapes(model: onnx.ModelProto, where: str) -> tuple[onnx.ModelProto, Mapping[str, Shape]]:
    """The model with what onnx infers, and the shape of each tensor by name (None: open axes).

    Raises:
        IntegrityError: the graph contradicts itself; `where` names its file.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=_may_propagate(model.graph))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise IntegrityError(
            f"{where}: shape inference fails ({' '.join(str(error).split())[:160]})"
        ) from error
    graph = inferred.graph
    known = [*graph.value_info, *graph.input, *graph.output]
    shapes = {value.name: read_shape(value) for value in known}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return inferred, shapes


def fix_input_size(model: onnx.ModelProto, input_size: tuple[int, ...] | None) -> onnx.ModelProto:
    """`model` with a batch of 1 where the batch is open and the first input's size filled in.

    Raises:
        UsageError: the size is needed, or contradicts the model.
    """
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


def read_shape(value: onnx.ValueInfoProto) -> Shape:
    """The axes that a graph states of a value; None for open ones."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
