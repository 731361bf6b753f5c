"""Operators of onnxruntime's own domain, written out in standard ones. Imports no torch.

onnxruntime saves optimised files with operators of `com.microsoft`: a convolution with its
activation, or with the channels last. onnx infers no shapes through them and other engines do not
have them; what they compute is that of a few standard nodes (onnxruntime's ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import helper

from strzoo.onnx.files import read_opset
from strzoo.onnx.tensors import read_attributes
from strzoo.onnx.weights import STANDARD_DOMAINS

DOMAIN = "com.microsoft"
_GROUPS = "GroupNormalization"
Nodes = list[onnx.NodeProto]
_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def expand_fused(model: onnx.ModelProto, *, shapes_only: bool = False) -> onnx.ModelProto:
    """`model` with fused operators written out; the model itself if it has none.

    The outputs keep their names. A node of an unknown activation, or of another operator, stays.

    Args:
        shapes_only: also replace quantised operators and GroupNormalization by ones whose outputs
            have their shapes, not their values; for shape inference.
    """
    groups = shapes_only and any(node.op_type == _GROUPS for node in model.graph.node)
    if not groups and not any(node.domain == DOMAIN for node in model.graph.node):
        return model
    opset = read_opset(model).get("ai.onnx", 1)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    taken = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    taken |= {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        rule = _RULES.get(node.op_type) if node.domain == DOMAIN else None
        if rule is None and shapes_only and node.domain == DOMAIN:
            rule = _SHAPE_RULES.get(node.op_type)
        if groups and node.op_type == _GROUPS and node.domain in STANDARD_DOMAINS:
            rule = _normalise
        nodes = rule(node, opset) if rule else None
        if nodes:
            _rename_inner(nodes, set(node.output), taken)
        made.graph.node.extend(nodes or [node])
    return made


def _rename_inner(nodes: Nodes, outputs: set[str], taken: set[str]) -> None:
    """Give what `nodes` make besides `outputs` names that are not `taken`, and take these."""
    names: dict[str, str] = {}
    for name in {name for node in nodes for name in node.output} - outputs:
        found, number = name, 2
        while found in taken:
            found, number = f"{name}_{number}", number + 1
        names[name] = found
        taken.add(found)
    for number, node in enumerate(nodes):
        before = {name for other in nodes[:number] for name in other.output}
        node.input[:] = [names.get(n, n) if n in before else n for n in node.input]
    for node in nodes:
        node.output[:] = [names.get(name, name) for name in node.output]


def _plain(
    kind: str, node: onnx.NodeProto, inputs: Sequence[str], output: str, keys: Sequence[str]
) -> onnx.NodeProto:
    """A standard node with some of the attributes of `node`."""
    made = helper.make_node(kind, inputs, [output], node.name)
    made.attribute.extend(a for a in node.attribute if a.name in keys)
    return made


def _activate(node: onnx.NodeProto, source: str, opset: int) -> Nodes | None:
    """The activation of a fused node from `source` to its output; None if it is unknown."""
    values = read_attributes(node)
    kind = values.get("activation", b"").decode("utf-8", "replace")
    params = list(values.get("activation_params", ())) or [
        values[f"activation_{n}"] for n in ("alpha", "beta", "gamma") if f"activation_{n}" in values
    ]
    output, name = node.output[0], f"{node.name or node.output[0]}_{kind.lower()}"
    if kind in ("Relu", "Tanh", "Sigmoid"):
        return [helper.make_node(kind, [source], [output], name)]
    if kind in ("LeakyRelu", "Elu", "HardSigmoid"):
        named = dict(zip(("alpha", "beta"), params, strict=False))
        return [helper.make_node(kind, [source], [output], name, **named)]
    if kind != "Clip" or len(params) != 2:
        return None
    if opset < 11:
        return [helper.make_node("Clip", [source], [output], name, min=params[0], max=params[1])]
    bounds = [f"{output}_{which}" for which in ("min", "max")]
    nodes = [helper.make_node("Constant", [], [n], value_float=v) if opset >= 12 else
             helper.make_node("Constant", [], [n], value=helper.make_tensor(n, 1, (), [v]))
             for n, v in zip(bounds, params, strict=True)]  # fmt: skip
    return [*nodes, helper.make_node("Clip", [source, *bounds], [output], name)]


_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode")


def _convolution(node: onnx.NodeProto, opset: int, last: bool = False) -> Nodes | None:
    """FusedConv, NhwcConv and NhwcFusedConv: Conv, plus a further input, then the activation."""
    has_activation = "activation" in read_attributes(node)
    added = node.input[3] if len(node.input) > 3 else ""
    nodes: Nodes = []
    source, output = node.input[0], node.output[0]
    made = output if not (has_activation or added) else f"{output}_convolved"
    inside = f"{output}_inside" if last else made
    if last:
        nodes.append(helper.make_node("Transpose", [source], [f"{output}_first"], perm=_TO_FIRST))
        source = f"{output}_first"
    weights = [name for name in node.input[1:3] if name]
    nodes.append(_plain("Conv", node, [source, *weights], inside, _WINDOW))
    if last:
        nodes.append(helper.make_node("Transpose", [inside], [made], perm=_TO_LAST))
    if added:
        summed = f"{output}_summed" if has_activation else output
        nodes.append(helper.make_node("Add", [made, added], [summed]))
        made = summed
    if has_activation:
        activation = _activate(node, made, opset)
        return None if activation is None else nodes + activation
    return nodes


def _gemm(node: onnx.NodeProto, opset: int) -> Nodes | None:
    made = f"{node.output[0]}_product"
    activation = _activate(node, made, opset)
    keys = ("alpha", "beta", "transA", "transB")
    product = _plain("Gemm", node, list(node.input), made, keys)
    return None if activation is None else [product, *activation]


def _matmul(node: onnx.NodeProto, opset: int) -> Nodes | None:
    """FusedMatMul without transposes of batches and without a factor."""
    values = read_attributes(node)
    plain = values.get("alpha", 1.0) == 1.0 and not any(
        values.get(key) for key in ("transA", "transB", "transBatchA", "transBatchB")
    )
    return [_plain("MatMul", node, node.input, node.output[0], ())] if plain else None


_RULES: dict[str, Callable[[onnx.NodeProto, int], Nodes | None]] = {
    "FusedConv": _convolution,
    "NhwcConv": lambda node, opset: _convolution(node, opset, last=True),
    "NhwcFusedConv": lambda node, opset: _convolution(node, opset, last=True),
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
}


def _same(node: onnx.NodeProto, opset: int) -> Nodes:
    return [helper.make_node("Identity", [node.input[0]], [node.output[0]], node.name)]


def _normalise(node: onnx.NodeProto, opset: int) -> Nodes:
    """Another normalisation of the same parameters: onnx infers no shape of this one's output."""
    return [helper.make_node("InstanceNormalization", node.input, node.output, node.name)]


def _elementwise(node: onnx.NodeProto, opset: int) -> Nodes:
    """Two quantised values, each followed by scale and zero point."""
    inputs = [node.input[0], node.input[3]]
    return [helper.make_node("Add", inputs, [node.output[0]], node.name)]


def _concat(node: onnx.NodeProto, opset: int) -> Nodes:
    return [_plain("Concat", node, node.input[2::3], node.output[0], ("axis",))]


def _window(kind: str, node: onnx.NodeProto, inputs: Sequence[str], opset: int) -> Nodes:
    """A quantised pool or convolution, with the channels last if it says so."""
    values = read_attributes(node)
    keys: tuple[str, ...] = () if kind == "GlobalAveragePool" else _WINDOW
    if kind == "AveragePool":
        keys = tuple(key for key in _WINDOW if key != "group")
    output = node.output[0]
    if not values.get("channels_last", 0) and not node.op_type.startswith("Nhwc"):
        return [_plain(kind, node, inputs, output, keys)]
    first, inside = f"{output}_first", f"{output}_inside"
    return [
        helper.make_node("Transpose", [inputs[0]], [first], perm=_TO_FIRST),
        _plain(kind, node, [first, *inputs[1:]], inside, keys),
        helper.make_node("Transpose", [inside], [output], perm=_TO_LAST),
    ]


_SHAPE_RULES: dict[str, Callable[[onnx.NodeProto, int], Nodes | None]] = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _elementwise),
    **dict.fromkeys(("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "Gelu", "FastGelu",
                     "BiasGelu", "QuickGelu", "QuantizeLinear", "DequantizeLinear"), _same),
    "QLinearConcat": _concat,
    "QLinearConv": lambda n, o: _window("QLinearConv", n, n.input, o),
    "QLinearAveragePool": lambda n, o: _window("AveragePool", n, n.input[:1], o),
    "QLinearGlobalAveragePool": lambda n, o: _window("GlobalAveragePool", n, n.input[:1], o),
    "NhwcMaxPool": lambda n, o: _window("MaxPool", n, n.input[:1], o),
}  # fmt: skip
