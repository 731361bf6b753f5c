"""The ONNX operators that compute, as layers; `reshaping` has those that only change shapes.

Every rule takes the builder and a node, and raises Unsupported if it cannot do that node.
"""

from __future__ import annotations

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes, read_pool_window, read_window
from strzoo.engine.frontend.builder import GraphBuilder, View
from strzoo.engine.frontend.padding import widen
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.ir.graph import (
    Add,
    Affine,
    AveragePool,
    Bounds,
    Clamp,
    Combine,
    Concat,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Normalize,
    Pick,
    PRelu,
    Softmax,
    Window,
)
from strzoo.engine.ir.windows import count_averaged
from strzoo.errors import IntegrityError


def read_convolution(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    weight = builder.weight(node, 1)
    if weight.ndim != 4:
        raise Unsupported(f"{weight.ndim - 2} axes; images have two")
    kernel = (weight.shape[2], weight.shape[3])
    if tuple(attributes.get("kernel_shape", kernel)) != kernel:
        raise IntegrityError(f"kernel_shape of {node.name!r} is not that of its weight")
    source = builder.map_value(node.input[0])
    _, height, width = builder.shapes[source]
    window, _ = read_window(attributes, kernel, (height, width))
    if (padding := builder.padded.get(source)) is not None:
        source, window = padding.value, widen(window, padding.pads)
    bias = _optional_weight(builder, node, 2)
    builder.emit(
        Convolution,
        node,
        (source,),
        weight=weight,
        bias=np.zeros(len(weight), np.float32) if bias is None else bias,
        window=window,
        groups=attributes.get("group", 1),
    )


def read_batch_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    if attributes.get("training_mode", 0) or not attributes.get("spatial", 1):
        raise Unsupported("in training mode, or not per channel")
    gain, offset, mean, variance = (
        builder.weight(node, index).astype(np.float64) for index in range(1, 5)
    )
    scale = gain / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    _emit_affine(builder, node, node.input[0], scale, offset - mean * scale)


def read_relu(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    builder.emit_elementwise(Clamp, node, bounds=Bounds(0.0))


def read_clip(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    limits = [attributes.get("min", float("-inf")), attributes.get("max", float("inf"))]
    for index in (1, 2):
        limit = _optional_weight(builder, node, index)
        if limit is not None:
            limits[index - 1] = float(limit.reshape(()))
    builder.emit_elementwise(Clamp, node, bounds=Bounds(*limits))


def read_function(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """A function of each value, as `ir.functions` names it."""
    attributes = read_attributes(node)
    function, low, high = FUNCTIONS[node.op_type]
    if node.op_type == "Gelu" and attributes.get("approximate", "none") != "none":
        raise Unsupported(f"approximated by {str(attributes['approximate'])[:20]}")
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
    "Sigmoid": ("sigmoid", 0.0, 0.0),
    "Sqrt": ("sqrt", 0.0, 0.0),
    "Swish": ("silu", 0.0, 0.0),
    "Tanh": ("tanh", 0.0, 0.0),
}


def read_prelu(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    slope = builder.weight(node, 1)
    view = builder.view(node.input[0])
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
    inner = _with_input(node, node.input[1 - constant.index(True)])
    builder.emit_elementwise(Clamp, inner, bounds=bounds)


def read_power(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    exponent = builder.weight(node, 1)
    if exponent.size != 1 or float(exponent.reshape(())) not in (0.5, 2.0):
        raise Unsupported("of other than 2 and a half")
    if float(exponent.reshape(())) == 0.5:
        return builder.emit_elementwise(Clamp, node, bounds=Bounds(0.0, 0.0, "sqrt"))
    view = builder.view(node.input[0])
    value = builder.emit(Combine, node, (view.value, view.value), function="mul")
    return builder.bind(node, value, view.shape)


def read_arithmetic(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Of two values, or with constants, one or one per channel."""
    constant = [name in builder.constants for name in node.input]
    if not any(constant):
        return _combine(builder, node)
    index = constant.index(True)
    value = builder.weight(node, index).astype(np.float64)
    one, zero = np.ones_like(value), np.zeros_like(value)
    with np.errstate(divide="ignore"):
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
        raise Unsupported("of a constant by a computed value")
    scale, shift = rules[node.op_type, index]
    return _emit_affine(builder, node, node.input[1 - index], scale, shift)


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


def read_concat(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    views = [builder.view(name) for name in node.input]
    rank = len(views[0].shape)
    if read_attributes(node).get("axis", 1) % (rank + 1) != 1 or rank not in (1, 3):
        raise Unsupported("along another axis than the channels")
    if len(views) == 1:
        return builder.bind(node, views[0].value, views[0].shape)
    take = builder.map_value if rank == 3 else builder.vector_value
    builder.emit(Concat, node, tuple(take(name) for name in node.input))
    return None


def read_max_pool(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    padding = builder.padded.get(node.input[0])
    if padding is not None and padding.number != 0:
        source, pads = padding.value, padding.pads
        _, height, width = builder.shapes[source]
        height, width = height + pads[0] + pads[2], width + pads[1] + pads[3]
    else:
        source, pads = builder.map_value(node.input[0]), (0, 0, 0, 0)
        _, height, width = builder.shapes[source]
    window, _ = read_pool_window(read_attributes(node), (height, width))
    window = widen(window, pads)
    if not count_averaged(AveragePool("", (), "", window), builder.shapes[source]).all():
        raise Unsupported("windows that see nothing but padding")
    builder.emit(MaxPool, node, (source,), window=window)


def read_average_pool(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    source = builder.map_value(node.input[0])
    _, height, width = builder.shapes[source]
    window, overhang = read_pool_window(attributes, (height, width))
    counted = bool(attributes.get("count_include_pad", 0))
    builder.emit(
        AveragePool,
        node,
        (source,),
        window=window,
        count_padding=counted,
        overhang=overhang if counted else (0, 0),
    )


def read_global_average_pool(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    builder.emit(GlobalAveragePool, node, (builder.map_value(node.input[0]),))


def read_mean(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    view = builder.view(node.input[0])
    given = len(node.input) > 1 and node.input[1]
    axes = builder.integers(node.input[1]) if given else list(attributes.get("axes", ()))
    if len(view.shape) != 3 or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise Unsupported("over other axes than height and width")
    value = builder.emit(GlobalAveragePool, node, (builder.map_value(node.input[0]),))
    if not attributes.get("keepdims", 1):
        builder.bind(node, value, view.shape[:1])


def read_gemm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    attributes = read_attributes(node)
    if attributes.get("transA", 0):
        raise Unsupported("of transposed images")
    weight = _matrix(builder, node)
    weight = weight if attributes.get("transB", 0) else weight.T
    bias = _optional_weight(builder, node, 2)
    outputs = len(weight)
    if bias is None:
        bias = np.zeros(outputs, np.float32)
    elif (
        bias.ndim > 2
        or (bias.ndim == 2 and len(bias) > 1)
        or bias.shape[-1:]
        not in (
            (),
            (1,),
            (outputs,),
        )
    ):
        raise Unsupported(f"a bias of shape {bias.shape}")
    else:
        bias = np.broadcast_to(bias.reshape(-1), (outputs,)) * attributes.get("beta", 1.0)
    weight = weight * np.float32(attributes.get("alpha", 1.0))
    _emit_linear(builder, node, weight, bias)


def read_matmul(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    weight = _matrix(builder, node).T
    if (last := builder.channels_last.get(node.input[0])) is not None:
        bias, kernel = np.zeros(len(weight), np.float32), np.ascontiguousarray(weight)
        builder.emit_last(
            Convolution,
            node,
            (last.value,),
            weight=kernel[:, :, None, None],
            bias=bias,
            window=Window((1, 1)),
        )
        return
    _emit_linear(builder, node, weight, np.zeros(len(weight), np.float32))


def read_layer_norm(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Over the channels of a map whose channels are last, or over a vector."""
    attributes = read_attributes(node)
    scale, shift = builder.weight(node, 1), _optional_weight(builder, node, 2)
    last = builder.channels_last.get(node.input[0])
    rank = 4 if last else len(builder.view(node.input[0]).shape) + 1
    if attributes.get("axis", -1) % rank != rank - 1 or rank not in (2, 4) or scale.ndim != 1 or (
        rank == 4 and last is None
    ):  # fmt: skip
        raise Unsupported("over another axis than the channels")
    fields = {
        "scale": scale,
        "shift": np.zeros_like(scale) if shift is None else shift,
        "epsilon": float(attributes.get("epsilon", 1e-5)),
    }
    if last is not None:
        builder.emit_last(Normalize, node, (last.value,), **fields)
    else:
        builder.emit(Normalize, node, (builder.vector_value(node.input[0]),), **fields)


def read_softmax(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    view = builder.view(node.input[0])
    default = -1 if builder.opset >= 13 else 1
    axis = read_attributes(node).get("axis", default) % (len(view.shape) + 1)
    # From opset 13 on it is along one axis, before that over all axes from that one on.
    along = view.shape[axis - 1 : axis] if builder.opset >= 13 else view.shape[axis - 1 :]
    if axis == 0 or np.prod(along) != np.prod(view.shape):
        raise Unsupported("along another axis than the channels of a vector")
    value = builder.emit(Softmax, node, (builder.flatten(view),))
    builder.bind(node, value, view.shape)


def read_gather(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    """Channels taken out of a map: a 1x1 convolution with a single one in each row; or pixels."""
    axis = read_attributes(node).get("axis", 0) % 4
    if axis == 0:
        raise Unsupported("along another axis than the channels and pixels")
    source = builder.map_value(node.input[0])
    channels, height, width = builder.shapes[source]
    indices = builder.constant(node.input[1])
    if indices is None or indices.ndim > 1:
        raise Unsupported("its indices are not a constant list")
    chosen = [int(index) for index in np.atleast_1d(indices)]
    size = (channels, height, width)[axis - 1]
    if not chosen or not all(-size <= index < size for index in chosen):
        raise IntegrityError(f"{node.name!r} takes {chosen} of {size}")
    if axis > 1:
        if indices.ndim == 0:
            raise Unsupported("of a single row or column")
        places = [np.arange(height), np.arange(width)]
        places[axis - 2] = np.array(chosen) % size
        builder.emit(Pick, node, (source,), rows=places[0], columns=places[1])
        return
    weight = np.zeros((len(chosen), channels, 1, 1), np.float32)
    weight[range(len(chosen)), [index % channels for index in chosen]] = 1
    bias = np.zeros(len(chosen), np.float32)
    value = builder.emit(
        Convolution, node, (source,), weight=weight, bias=bias, window=Window((1, 1))
    )
    if indices.ndim == 0:
        builder.bind(node, value, (height, width))


def _combine(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    last = [builder.channels_last.get(name) for name in node.input]
    if last[0] and last[1] and last[0].shape == last[1].shape:
        inputs = (last[0].value, last[1].value)
        return builder.emit_last(Combine, node, inputs, function=node.op_type.lower())
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


def _emit_affine(
    builder: GraphBuilder, node: onnx.NodeProto, name: str, scale: np.ndarray, shift: np.ndarray
) -> None:
    """scale * x + shift, both of the same shape: one number, or one per channel."""
    if name in builder.channels_last:
        value = builder.channels_last[name].value
        channels = builder.shapes[value][0]
        if scale.size != 1 and (scale.size, scale.shape[-1]) != (channels, channels):
            raise Unsupported(f"a constant of shape {scale.shape} with the channels last")
        scale, shift = (
            np.broadcast_to(v.reshape(-1), (channels,)).astype(np.float32) for v in (scale, shift)
        )
        builder.emit_last(Affine, node, (value,), scale=scale, shift=shift)
        return
    view = builder.view(name)
    if scale.ndim > len(view.shape) + 1:
        raise Unsupported(f"a constant of shape {scale.shape}")
    if scale.size == 1:
        channels = builder.shapes[view.value][0]
        builder.emit_elementwise(
            Affine,
            _with_input(node, name),
            scale=np.full(channels, scale.reshape(()), np.float32),
            shift=np.full(channels, shift.reshape(()), np.float32),
        )
        return
    channels = view.shape[0]
    per_channel = (channels, *[1] * (len(view.shape) - 1))
    is_norm = node.op_type == "BatchNormalization"
    if not is_norm and scale.shape not in (per_channel, (1, *per_channel)):
        raise Unsupported(f"a constant of shape {scale.shape} with images of {_images(view)}")
    take = builder.map_value if len(view.shape) == 3 else builder.vector_value
    scale, shift = (v.reshape(-1).astype(np.float32) for v in (scale, shift))
    builder.emit(Affine, node, (take(name),), scale=scale, shift=shift)


def _with_input(node: onnx.NodeProto, name: str) -> onnx.NodeProto:
    """`node` with a single input, because the constant of `c * x` may come first."""
    return onnx.helper.make_node(node.op_type, [name], list(node.output), name=node.name)


def _emit_linear(
    builder: GraphBuilder, node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray
) -> None:
    builder.emit(
        Linear,
        node,
        (builder.vector_value(node.input[0]),),
        weight=np.ascontiguousarray(weight, np.float32),
        bias=np.ascontiguousarray(bias, np.float32),
    )


def _matrix(builder: GraphBuilder, node: onnx.NodeProto) -> np.ndarray:
    weight = builder.weight(node, 1)
    if weight.ndim != 2:
        raise Unsupported(f"by a constant of shape {weight.shape}")
    return weight


def _optional_weight(builder: GraphBuilder, node: onnx.NodeProto, index: int) -> np.ndarray | None:
    given = len(node.input) > index and node.input[index]
    return builder.weight(node, index) if given else None


def _images(view: View) -> str:
    return f"[N, {', '.join(map(str, view.shape))}]"
