"""The inputs of a network: which of them the engine reads, in what shape, and the batch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import onnx

from strzoo.engine.frontend.problems import OpenSizeError
from strzoo.engine.ir.graph import Shape
from strzoo.engine.ir.parts import Port
from strzoo.errors import UsageError
from strzoo.onnx.files import real_inputs
from strzoo.onnx.tensors import check_kind, spell_kind
from strzoo.settings import Limits

Dims = tuple[int | None, ...]

# What makes a tensor of the size of its first input.
_SAME_SIZE = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}
# What makes images of as many channels as those that it takes.
_SAME_CHANNELS = {*_SAME_SIZE, "Add", "Clip", "Div", "Mul", "Pad", "Relu", "Resize", "Sub"}
_PER_CHANNEL = {"BatchNormalization", "InstanceNormalization"}


@dataclass(frozen=True)
class Input:
    """An input of a network; `shape` is one image's, None for what onnxruntime alone reads."""

    port: Port
    kind: onnx.TypeProto
    shape: Shape | None


def read_inputs(model: onnx.ModelProto, size: tuple[int, int] | None) -> list[Input]:
    """The inputs, in the model's order. `size` is that of images whose size is open.

    Raises:
        UsageError: the size is needed, or contradicts the file; or an input has no shape.
    """
    return [_read_input(model, value, size) for value in _shaped_inputs(model)]


def find_batch(inputs: list[Input]) -> int | None:
    """The number of images that the inputs fix; None where all leave it open, 0 if they differ."""
    firsts = {i.port.shape[0] if i.port.shape else 0 for i in inputs}
    return firsts.pop() if len(firsts) == 1 else 0


def check_outputs(model: onnx.ModelProto) -> None:
    """Raise a UsageError unless all outputs are tensors."""
    for value in model.graph.output:
        kind = value.type.WhichOneof("value") or "tensor_type"
        if kind != "tensor_type":
            raise UsageError(
                f"output {value.name!r} is a {kind.removesuffix('_type')}, not a tensor; cut off "
                "the operators that make it (ZipMap, SequenceConstruct), or export without them"
            )


def read_ports(model: onnx.ModelProto) -> tuple[list[Port], list[Port]]:
    """The inputs and the outputs as the model declares them, for any number of images."""
    inputs, outputs = (
        [read_port(value) for value in values]
        for values in (_shaped_inputs(model), model.graph.output)
    )
    return [replace(port, shape=(None, *port.shape[1:])) for port in inputs], outputs


def _shaped_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    found = list(real_inputs(model))
    for value in found:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            raise UsageError(
                f"the file declares no shape of input {value.name!r}; declare it, with names for "
                "sizes that are open, such as [N, 3, H, W]"
            )
    return found


def read_port(value: onnx.ValueInfoProto) -> Port:
    """As the file declares it."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        return Port(value.name, "object", ())
    if tensor.elem_type == onnx.TensorProto.STRING:
        return Port(value.name, "object", _dims(value))
    check_kind(tensor.elem_type, f"the input or output {value.name[:60]!r}")
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return Port(value.name, kind.name, _dims(value))


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def check_images(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    """Raise a UsageError unless the engine can read this input as images."""
    tensor = value.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.UINT8:
        raise UsageError(
            f"input {value.name!r} takes bytes, preprocessing is part of the network; export it "
            "without built-in preprocessing"
        )
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = spell_kind(tensor.elem_type, f"the input {value.name[:60]!r}")
        raise UsageError(f"input {value.name!r} takes {kind}; the sparse engine takes float32")
    dims = _dims(value)
    if len(dims) == 4 and dims[1] is None:
        dims = (dims[0], _find_channels(model, value.name), *dims[2:])
    if len(dims) != 4 or not dims[1]:
        shown = ", ".join("?" if d is None else str(d) for d in dims)
        raise UsageError(f"input {value.name!r} is [{shown}]; expected images, [N, C, H, W]")


def _read_input(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, size: tuple[int, int] | None
) -> Input:
    port = read_port(value)
    if port.dtype != "float32" or len(port.shape) < 2:
        return Input(port, value.type, None)
    batch, *rest = port.shape
    if len(rest) == 3 and rest[0] is None:
        rest[0] = _find_channels(model, value.name)
    if len(rest) == 3 and rest[0]:
        rest = [rest[0], *_find_sides(model, value.name, (rest[1], rest[2]), size)]
    if None in rest:
        return Input(port, value.type, None)
    shape = tuple(side or 0 for side in rest)
    Limits.from_env().check("elements", math.prod(shape), f"input {value.name!r}")
    return Input(Port(port.name, port.dtype, (batch, *shape)), value.type, shape)


def _find_channels(model: onnx.ModelProto, name: str) -> int | None:
    """How many channels the first layer takes that the images go into, where the file leaves it
    open; None if what they go into does not say.
    """
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    images = {name}
    for node in model.graph.node:
        first, second = (*node.input, "", "")[:2]
        weights = sizes.get(second, ())
        if node.op_type == "Constant":
            values = (tuple(a.t.dims) for a in node.attribute if a.name == "value")
            sizes.update(zip(node.output, values, strict=False))
        elif node.op_type in _SAME_SIZE and first in sizes:
            sizes.update(dict.fromkeys(node.output, sizes[first]))
        elif first in images and node.op_type == "Conv":
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return weights[1] * group if len(weights) == 4 else None
        elif first in images and node.op_type in _PER_CHANNEL:
            return weights[0] if len(weights) == 1 else None
        elif node.op_type in _SAME_CHANNELS and images & set(node.input):
            images.update(node.output)
    return None


def _find_sides(
    model: onnx.ModelProto,
    name: str,
    fixed: tuple[int | None, int | None],
    size: tuple[int, int] | None,
) -> list[int]:
    """Height and width of the images."""
    wanted = size or (_stated_size(model) if None in fixed else None) or (None, None)
    sides: list[int] = []
    for side, known, given in zip(("height", "width"), fixed, wanted, strict=True):
        if known is None and given is None:
            raise OpenSizeError(
                f"input {name!r} leaves the {side} open; give the size of the images"
            )
        if given is not None and (given < 1 or known not in (None, given)):
            expected = "must be positive" if known is None else f"is fixed at {known}"
            raise UsageError(f"the {side} of the images is given as {given}; it {expected}")
        sides.append(known or given or 0)
    return sides


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
