"""read_graph: an ONNX network as a graph, or one error that lists all that cannot be read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import onnx

from strzoo.engine.frontend import operators, padding, reshaping
from strzoo.engine.frontend.builder import GraphBuilder, describe_node
from strzoo.engine.frontend.constants import Constants
from strzoo.engine.frontend.problems import Problem, Unknown, Unsupported, describe_problems
from strzoo.engine.ir.graph import Graph, Shape
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.onnx.files import check_model, parse_onnx, read_onnx, read_opset, real_inputs
from strzoo.onnx.fused import expand_fused
from strzoo.settings import Limits

Source = onnx.ModelProto | bytes | str | os.PathLike[str]
Rule = Callable[[GraphBuilder, onnx.NodeProto], None]

OPERATORS: dict[str, Rule] = {
    "Add": operators.read_arithmetic,
    "AveragePool": operators.read_average_pool,
    "BatchNormalization": operators.read_batch_norm,
    "Cast": reshaping.read_cast,
    "Clip": operators.read_clip,
    "Concat": operators.read_concat,
    "Conv": operators.read_convolution,
    "Div": operators.read_arithmetic,
    "Dropout": reshaping.read_dropout,
    "Flatten": reshaping.read_flatten,
    "Gather": operators.read_gather,
    "Gemm": operators.read_gemm,
    "GlobalAveragePool": operators.read_global_average_pool,
    "Identity": reshaping.read_identity,
    "MatMul": operators.read_matmul,
    "MaxPool": operators.read_max_pool,
    "Pad": padding.read_pad,
    "Mul": operators.read_arithmetic,
    "ReduceMean": operators.read_mean,
    "Relu": operators.read_relu,
    "Reshape": reshaping.read_reshape,
    "Shape": reshaping.read_shape,
    "Softmax": operators.read_softmax,
    "Squeeze": reshaping.read_squeeze,
    "Sub": operators.read_arithmetic,
    "Sum": operators.read_sum,
    "Transpose": padding.read_transpose,
    "Unsqueeze": reshaping.read_unsqueeze,
}
# What reading a malformed node can raise.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def read_graph(
    model: Source, *, size: tuple[int, int] | None = None, source: str | None = None
) -> Graph:
    """The network in `model`, not yet simplified.

    Layers are for one image; a batch size that the file fixes is forgotten. fp16 weights become
    fp32.

    Args:
        model: path or content of an ONNX file, or the model itself.
        size: height and width of the images, where the file leaves them open. By default what
            strzoo's metadata in the file says.
        source: what to call the model in messages; by default its path.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not an ONNX model, or contradicts itself.
        UsageError: operators that the engine does not have, all of them listed with their nodes;
            the size is needed, contradicts the file, or is too small.
    """
    proto, name = open_model(model, source)
    try:
        return _read(proto, size, name)
    except StrzooError as error:
        raise type(error)(f"{name}: {error}") from error


def open_model(model: Source, source: str | None = None) -> tuple[onnx.ModelProto, str]:
    """The model, checked, with functions inlined and fused operators written out, and its name.
    Errors as `read_graph`."""
    if isinstance(model, onnx.ModelProto):
        name = source or model.graph.name or "the model"
        return expand_fused(check_model(model, name)), name
    if isinstance(model, bytes):
        name = source or "the model"
        return expand_fused(parse_onnx(model, name)), name
    path = Path(model)
    return expand_fused(read_onnx(path)), source or str(path)


def _read(model: onnx.ModelProto, size: tuple[int, int] | None, name: str) -> Graph:
    inputs, outputs = real_inputs(model), list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(
            f"{len(inputs)} inputs and {len(outputs)} outputs; the sparse engine runs networks "
            "with one of each"
        )
    opset = read_opset(model).get("ai.onnx", 1)
    batch, shape = _read_input(model, inputs[0], size)
    builder = GraphBuilder(Constants(model.graph), opset, batch)
    builder.add_input(inputs[0].name, shape)
    used = {name for node in model.graph.node for name in node.input} | {outputs[0].name}
    problems: list[Problem] = []
    for node in _needed(model.graph):
        try:
            _read_node(builder, node, used)
        except Unknown:
            builder.mark_broken(node)
        except Unsupported as problem:
            operator, place = problem.node or (_operator(node), describe_node(node))
            problems.append(Problem(operator, place, problem.reason))
            builder.mark_broken(node)
    if not problems:
        try:
            output = _find_output(builder, outputs[0].name)
        except Unsupported as problem:
            operator, place = problem.node or ("output", outputs[0].name)
            problems.append(Problem(operator, place, problem.reason))
    if problems:
        raise UsageError(
            f"the sparse engine cannot run {describe_problems(problems)}; it runs "
            f"{', '.join(OPERATORS)}; onnxruntime runs the others"
        )
    return Graph(inputs[0].name, output, builder.shapes, tuple(builder.layers), name)


def _read_node(builder: GraphBuilder, node: onnx.NodeProto, used: set[str]) -> None:
    try:
        if builder.constants.fold(node, builder.opset):
            return
        if _operator(node) not in OPERATORS:
            raise Unsupported
        if any(name in used for name in node.output[1:] if name):
            raise Unsupported("its second output is used")
        OPERATORS[node.op_type](builder, node)
    except StrzooError:
        raise
    except _MALFORMED as error:
        reason = " ".join(str(error).split())[:160]
        raise IntegrityError(
            f"{node.op_type} {describe_node(node)!r} is malformed ({reason})"
        ) from error


def _operator(node: onnx.NodeProto) -> str:
    standard = node.domain in ("", "ai.onnx")
    return node.op_type if standard else f"{node.domain}.{node.op_type}"


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the output depends on, in the file's order."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _find_output(builder: GraphBuilder, name: str) -> str:
    rank = len(builder.view(name).shape)
    value = builder.vector_value(name) if rank == 1 else builder.map_value(name)
    if not builder.layers:
        raise UsageError("the network has no layers")
    return value


def _read_input(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, size: tuple[int, int] | None
) -> tuple[int | None, Shape]:
    """Batch (None if it is open) and shape of one image."""
    tensor = value.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.UINT8:
        raise UsageError(
            f"input {value.name!r} takes bytes, preprocessing is part of the network; export it "
            "without built-in preprocessing"
        )
    if tensor.elem_type not in _FLOATS:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise UsageError(f"input {value.name!r} takes {kind}; the sparse engine takes float32")
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    # Every other operator takes [N, C, H, W] by its definition.
    turned = any(n.op_type == "Transpose" and value.name in n.input for n in model.graph.node)
    if turned and len(dims) == 4 and dims[3] in (1, 3) and dims[1] not in (1, 3, 4):
        raise UsageError(
            f"input {value.name!r} has the channels last ([N, H, W, {dims[3]}]); the sparse engine "
            "takes [N, C, H, W]: export the network so (tf2onnx has --inputs-as-nchw)"
        )
    if len(dims) == 4 and dims[1] is None:
        dims[1] = _find_channels(model, value.name)
    if len(dims) != 4 or not dims[1]:
        shown = ", ".join("?" if d is None else str(d) for d in dims)
        raise UsageError(f"input {value.name!r} is [{shown}]; expected images, [N, C, H, W]")
    batch, channels, fixed = dims[0], dims[1], dims[2:]
    wanted = size or (_stated_size(model) if None in fixed else None) or (None, None)
    sides: list[int] = []
    for side, known, given in zip(("height", "width"), fixed, wanted, strict=True):
        if known is None and given is None:
            raise UsageError(
                f"input {value.name!r} leaves the {side} open; give the size of the images"
            )
        if given is not None and (given < 1 or known not in (None, given)):
            expected = "must be positive" if known is None else f"is fixed at {known}"
            raise UsageError(f"the {side} of the images is given as {given}; it {expected}")
        sides.append(known or given or 0)
    shape = (channels, sides[0], sides[1])
    Limits.from_env().check("elements", math.prod(shape), f"input {value.name!r}")
    return batch, shape


def _find_channels(model: onnx.ModelProto, name: str) -> int | None:
    """How many channels the convolution takes that the images go into, where the file leaves it
    open; None if they go into something else."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 1 and node.input[0] == name:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            shape = sizes.get(node.input[1], ())
            return shape[1] * group if len(shape) == 4 else None
    return None


def _stated_size(model: onnx.ModelProto) -> tuple[int, int] | None:
    """Height and width of the images in the metadata of strzoo's exports."""
    for entry in model.metadata_props:
        if entry.key == "strzoo.preprocessing":
            try:
                stated = json.loads(entry.value)
                return int(stated["input_height"]), int(stated["input_width"])
            except (ValueError, TypeError, KeyError):
                return None
    return None
