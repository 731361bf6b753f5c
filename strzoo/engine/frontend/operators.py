"""The ONNX operators that multiply by weights, pool or join, as layers.

Every rule takes the builder and a node, and raises Unsupported if it cannot do that node.
"""

from __future__ import annotations

import numpy as np
import onnx

from strzoo.engine.frontend.attributes import read_attributes, read_pool_window, read_window
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.padding import widen
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.rearranging import shape_of
from strzoo.engine.ir.graph import (
    AveragePool,
    Concat,
    Convolution,
    GlobalAveragePool,
    Linear,
    MaxPool,
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
    bias = builder.optional_weight(node, 2)
    builder.emit(
        Convolution,
        node,
        (source,),
        weight=weight,
        bias=np.zeros(len(weight), np.float32) if bias is None else bias,
        window=window,
        groups=attributes.get("group", 1),
    )


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
    alpha, beta = (np.float32(attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    if not np.isfinite([alpha, beta]).all():
        raise Unsupported(f"with factors {alpha:g} and {beta:g}")
    weight = _matrix(builder, node)
    weight = weight if attributes.get("transB", 0) else weight.T
    bias = builder.optional_weight(node, 2)
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
        bias = np.broadcast_to(bias.reshape(-1), (outputs,)) * beta
    _emit_linear(builder, node, weight * alpha, bias)


def read_matmul(builder: GraphBuilder, node: onnx.NodeProto) -> None:
    weight = _matrix(builder, node).T
    rank = len(shape_of(builder, node.input[0]))
    if rank > 1 and (last := builder.turned(node.input[0])) is not None:
        if last.shape[0] != weight.shape[1]:
            raise Unsupported(f"of {last.shape[0]} channels by a matrix of {weight.shape[1]} rows")
        bias, kernel = np.zeros(len(weight), np.float32), np.ascontiguousarray(weight)
        builder.emit_last(
            Convolution,
            node,
            last,
            weight=kernel[:, :, None, None],
            bias=bias,
            window=Window((1, 1)),
        )
        return
    _emit_linear(builder, node, weight, np.zeros(len(weight), np.float32))


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


def _emit_linear(
    builder: GraphBuilder, node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray
) -> None:
    found = builder.rearranged.get(node.input[0])
    if found is not None and found.index.shape == weight.shape[1:]:
        # Of a map that was turned before it was flattened: the weights are turned instead.
        source = builder.flatten(builder.whole(found.value))
        straight = np.zeros((len(weight), *builder.shapes[source]), np.float32)
        np.add.at(straight.T, found.index, weight.T)
        weight = straight
    else:
        source = builder.vector_value(node.input[0])
    builder.emit(
        Linear,
        node,
        (source,),
        weight=np.ascontiguousarray(weight, np.float32),
        bias=np.ascontiguousarray(bias, np.float32),
    )


def _matrix(builder: GraphBuilder, node: onnx.NodeProto) -> np.ndarray:
    weight = builder.weight(node, 1)
    if weight.ndim != 2:
        raise Unsupported(f"by a constant of shape {weight.shape}")
    return weight
