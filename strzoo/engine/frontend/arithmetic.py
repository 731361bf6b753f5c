"""The ONNX operators that compute number by number, as layers: functions, and sums and products of
two values or of a value and constants.

Every rule takes the builder and a node, and raises Unsupported if it cannot do that node.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.rearranging import shape_of
from strzoo.engine.frontend.values import View
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    Bounds,
    Clamp,
    Combine,
    Layer,
    PRelu,
)


def read_relu(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    builder.emit_elementwise(Clamp, node, bounds=Bounds(0.0))


def read_clip(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    limits = [attributes.get("min", float("-inf")), attributes.get("max", float("inf"))]
    for index in (1, 2):
        limit = builder.optional_weight(node, index)
        if limit is not None:
            limits[index - 1] = float(limit.reshape(()))
    builder.emit_elementwise(Clamp, node, bounds=Bounds(*limits))


def read_function(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """A function of each value, as `ir.functions` names it."""
    attributes = read_attributes(node)
    function, low, high = FUNCTIONS[node.op_type]
    if node.op_type == "Gelu" and (approximate := attributes.get("approximate", "none")) != "none":
        if approximate != "tanh":
            raise Unsupported(f"approximated by {str(approximate)[:20]}")
        function = "tanhgelu"
    bounds = Bounds(attributes.get("alpha", low), attributes.get("beta", high), function)
    builder.emit_elementwise(Clamp, node, bounds=bounds)


# Function, and the parameters that the node's alpha and beta may replace.
FUNCTIONS = {
    "Abs": ("abs", 0.0, 0.0),
    "Elu": ("elu", 1.0, 0.0),
    "Erf": ("erf", 0.0, 0.0),
    "Exp": ("exp", 0.0, 0.0),
    "Gelu": ("gelu", 0.0, 0.0),
    "HardSigmoid": ("hardsigmoid", 0.2, 0.5),
    "HardSwish": ("hardswish", 1 / 6, 0.5),
    "LeakyRelu": ("leaky", 0.01, 0.0),
    "Log": ("log", 0.0, 0.0),
    "Mish": ("mish", 0.0, 0.0),
    "Reciprocal": ("over", 1.0, 0.0),
    "Sigmoid": ("sigmoid", 0.0, 0.0),
    "Softplus": ("softplus", 0.0, 0.0),
    "Softsign": ("softsign", 0.0, 0.0),
    "Sqrt": ("sqrt", 0.0, 0.0),
    "Tanh": ("tanh", 0.0, 0.0),
}


def read_swish(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """x * sigmoid(alpha * x)."""
    alpha, (name,), (output,) = read_attributes(node).get("alpha", 1.0), node.input, node.output
    if alpha == 1:
        return builder.emit_elementwise(Clamp, node, bounds=Bounds(0.0, 0.0, "silu"))
    scaled, gate = builder.fresh(f"{output}_scaled"), builder.fresh(f"{output}_gate")
    steps = (("Mul", name, scaled), ("Sigmoid", scaled, gate))
    scale, function = (onnx.helper.make_node(op, [x], [y], node.name) for op, x, y in steps)
    emit_affine(builder, scale, name, np.float64(alpha), np.float64(0))
    read_function(builder, function)
    return _combine(builder, onnx.helper.make_node("Mul", [name, gate], [output], node.name))


def read_prelu(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    slope = builder.weight(node, 1)
    view = builder.view(node.input[0])
    _check_rank(builder, node.input[0], slope)
    if slope.size == 1:
        bounds = Bounds(float(slope.reshape(())), 0.0, "leaky")
        return builder.emit_elementwise(Clamp, node, bounds=bounds)
    channels = view.shape[0]
    if len(view.shape) != 3 or slope.shape[-3:] != (channels, 1, 1) or slope.size != channels:
        raise Unsupported(f"slopes of shape {slope.shape}")
    value = builder.map_value(node.input[0])
    builder.emit(PRelu, node, (value,), slope=slope.reshape(-1))
    return None


def read_limits(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Min or Max of a value and a number."""
    constant = [name in builder.constants for name in node.input]
    if len(node.input) != 2 or sum(constant) != 1:
        raise Unsupported("of other than a value and a constant")
    limit = builder.weight(node, constant.index(True))
    if limit.size != 1:
        raise Unsupported(f"with a constant of shape {limit.shape}")
    number = float(limit.reshape(()))
    bounds = Bounds(high=number) if node.op_type == "Min" else Bounds(number)
    inner = with_input(node, node.input[1 - constant.index(True)])
    _check_rank(builder, inner.input[0], limit)
    builder.emit_elementwise(Clamp, inner, bounds=bounds)


def read_negative(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    emit_affine(builder, node, node.input[0], np.float64(-1), np.float64(0))


def read_power(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """By a number: products where they are few, else by logarithms."""
    given = builder.weight(node, 1)
    if given.size != 1:
        raise Unsupported(f"by a constant of shape {given.shape}")
    _check_rank(builder, node.input[0], given)
    exponent = float(given.reshape(()))
    last = builder.channels_last.get(node.input[0])
    view = last or builder.view(node.input[0])
    value = view.value
    size = abs(exponent)
    if size in (2, 3, 4):
        value = square = builder.emit(Combine, node, (value, value), function="mul")
        if size != 2:
            other = view.value if size == 3 else square
            value = builder.emit(Combine, node, (square, other), function="mul")
    elif size == 0.5:
        value = builder.emit(Clamp, node, (value,), bounds=Bounds(0.0, 0.0, "sqrt"))
    elif size != 1:
        if not math.isfinite(exponent) or exponent == 0:
            raise Unsupported(f"of {exponent:g}")
        # The sign of the result: of a negative number there is a power if it is a whole one.
        kind = 0 if exponent % 1 else 1 if exponent % 2 else 2
        bounds = Bounds(exponent, float(kind), "power")
        value = builder.emit(Clamp, node, (value,), bounds=bounds)
    if exponent < 0 and size in (0.5, 1, 2, 3, 4):
        value = builder.emit(Clamp, node, (value,), bounds=Bounds(1.0, 0.0, "over"))
    builder.bind(node, value, view.shape)
    if last:
        builder.turn_last(node)


def read_arithmetic(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Of two values, or with constants, one or one per channel."""
    constant = [name in builder.constants for name in node.input]
    if not any(constant):
        return _combine(builder, node)
    index = constant.index(True)
    value = builder.weight(node, index).astype(np.float64)
    _check_rank(builder, node.input[1 - index], value)
    if (node.op_type, index) == ("Div", 0) and value.size == 1:
        bounds = Bounds(float(value.reshape(())), 0.0, "over")
        return builder.emit_elementwise(Clamp, with_input(node, node.input[1]), bounds=bounds)
    one, zero = np.ones_like(value), np.zeros_like(value)
    rules = {
        ("Add", 0): (one, value),
        ("Add", 1): (one, value),
        ("Sub", 0): (-one, value),
        ("Sub", 1): (one, -value),
        ("Mul", 0): (value, zero),
        ("Mul", 1): (value, zero),
        ("Div", 1): (1 / value, zero),
    }
    if (node.op_type, index) not in rules:
        raise Unsupported("of several constants by a computed value")
    scale, shift = rules[node.op_type, index]
    return emit_affine(builder, node, node.input[1 - index], scale, shift)


def read_sum(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Of any number of values: one addition after the other."""
    total = node.input[0]
    if len(node.input) == 1:
        view = builder.view(total)
        return builder.bind(node, view.value, view.shape)
    for number, name in enumerate(node.input[1:], 1):
        last = number == len(node.input) - 1
        output = node.output[0] if last else builder.fresh(f"{node.output[0]}_{number}")
        add = onnx.helper.make_node("Add", [total, name], [output], node.name)
        if total in builder.constants and name in builder.constants:
            builder.constants.fold(add, builder.opset)
        else:
            read_arithmetic(builder, add)
        total = output
    return None


def _combine(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    turned = any(name in builder.channels_last for name in node.input)
    if turned and shape_of(builder, node.input[0]) == shape_of(builder, node.input[1]):
        one, other = (builder.turned(name) for name in node.input)
        if one and other:
            beside = builder.reshaped(other.value, builder.shapes[one.value])
            return builder.emit_last(Combine, node, one, beside, function=node.op_type.lower())
    first, second = (builder.view(name) for name in node.input)
    kind: type[Layer] = Add if node.op_type == "Add" else Combine
    fields = {} if kind is Add else {"function": node.op_type.lower()}
    if first.shape != second.shape:
        names = tuple(node.input)
        if node.op_type in ("Add", "Mul") and first.shape[1:] == (1, 1):
            (first, second), names = (second, first), names[::-1]
        one_each = len(first.shape) == 3 and second.shape == (first.shape[0], 1, 1)
        if not one_each or builder.shapes[second.value] not in (second.shape, second.shape[:1]):
            raise Unsupported(f"of shapes {_images(first)} and {_images(second)}")
        inputs = (builder.map_value(names[0]), second.value)
        builder.emit(Combine, node, inputs, function=node.op_type.lower())
        return None
    if builder.shapes[first.value] == builder.shapes[second.value]:
        value = builder.emit(kind, node, (first.value, second.value), **fields)
        builder.bind(node, value, first.shape)
    elif first.shape[1:] == (1, 1):  # maps of one pixel, one of which was made of a vector
        value = builder.emit(
            kind, node, (builder.flatten(first), builder.flatten(second)), **fields
        )
        builder.bind(node, value, first.shape)
    else:
        take = builder.vector_value if len(first.shape) == 1 else builder.map_value
        builder.emit(kind, node, (take(node.input[0]), take(node.input[1])), **fields)


def emit_affine(
    builder: GraphBuilder, node: onnx.NodeProto, name: str, scale: np.ndarray, shift: np.ndarray
) -> None:
    """scale * x + shift, both of the same shape: one number, or one per channel."""
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Unsupported("with a factor or summand that is infinite or NaN in fp32")
    if name in builder.channels_last:
        last = builder.channels_last[name]
        channels = last.shape[0]
        if scale.size != 1 and (scale.size, scale.shape[-1]) != (channels, channels):
            raise Unsupported(f"a constant of shape {scale.shape} with the channels last")
        scale, shift = (np.broadcast_to(v.reshape(-1), (channels,)) for v in (scale, shift))
        builder.emit_last(Affine, node, last, scale=scale, shift=shift)
        return
    view = builder.view(name)
    if scale.size == 1:
        channels = builder.shapes[view.value][0]
        builder.emit_elementwise(
            Affine,
            with_input(node, name),
            scale=np.full(channels, scale.reshape(())),
            shift=np.full(channels, shift.reshape(())),
        )
        return
    channels = view.shape[0]
    per_channel = (channels, *[1] * (len(view.shape) - 1))
    is_norm = node.op_type == "BatchNormalization"
    if not is_norm and scale.shape not in (per_channel, (1, *per_channel)):
        raise Unsupported(f"a constant of shape {scale.shape} with images of {_images(view)}")
    take = builder.map_value if len(view.shape) == 3 else builder.vector_value
    builder.emit(Affine, node, (take(name),), scale=scale.reshape(-1), shift=shift.reshape(-1))


def _check_rank(builder: GraphBuilder, name: str, constant: np.ndarray) -> None:
    """Raise Unsupported if the result has more axes than the value `name`."""
    if constant.ndim > len(shape_of(builder, name)) + 1:
        raise Unsupported(f"with a constant of shape {constant.shape}, of more axes than the value")


def with_input(node: onnx.NodeProto, name: str) -> onnx.NodeProto:
    """`node` with a single input, because the constant of `c * x` may come first."""
    return onnx.helper.make_node(node.op_type, [name], list(node.output), name=node.name)


def _images(view: View) -> str:
    return f"[N, {', '.join(map(str, view.shape))}]"
