"""What is known of ONNX operators for counting: which compute nothing, which may hold weights."""

from __future__ import annotations

import math

import onnx

from strzoo.onnx.weights import STANDARD_DOMAINS, Constants, is_layer, weight_input

POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")
# No arithmetic: shapes, copies, types.
_SHAPING = {"Flatten", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_COPYING = {"Cast", "Concat", "Expand", "Gather", "Identity", "Pad", "Range", "Dropout"}
_CONSTANT = {"Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear"}
_ACTIVATIONS = {"Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu"}
_ACTIVATIONS |= {"Relu", "Sigmoid", "Softmax", "Swish", "Tanh"}
# What the convention does not count, besides normalisations.
FREE = _SHAPING | _COPYING | _CONSTANT | _ACTIVATIONS
# Standard operators with constants that are no weights by the convention: scales, shifts, masks.
_ELEMENTWISE = {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mod", "Mul"}
_ELEMENTWISE |= {"Not", "Or", "Pow", "Sub", "Sum", "Where", "Xor"}
# Operators of onnxruntime's own domain that hold no weights.
_WEIGHTLESS = {"QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool"}
_WEIGHTLESS |= {"QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax"}
_WEIGHTLESS |= {"BiasGelu", "FastGelu", "Gelu", "QuickGelu", "NhwcMaxPool"}
_WEIGHTLESS |= {"DequantizeLinear", "QuantizeLinear"}
_NORMALISATION = "Normalization"  # how the names of all such operators end
_LARGEST_ATTRIBUTE = 256  # bytes or numbers; a longer one may be a network of its own


def name_operator(node: onnx.NodeProto) -> str:
    """The operator, with its domain if that is another than onnx's own."""
    standard = node.domain in STANDARD_DOMAINS
    return node.op_type if standard else f"{node.domain}.{node.op_type}"


def normalises(node: onnx.NodeProto) -> bool:
    """Whether it is a normalisation of whatever kind."""
    return node.op_type.endswith(_NORMALISATION)


def find_holders(graph: onnx.GraphProto, layers: set[str]) -> list[str]:
    """Operators that may hold weights of layers and were not understood, each once.

    Args:
        layers: outputs of the nodes that are counted.
    """
    constants = Constants(graph)
    others = [node for node in graph.node if node.output and node.output[0] not in layers]
    found = [name_operator(node) for node in others if _may_hold(node, constants)]
    return list(dict.fromkeys(found))


def _may_hold(node: onnx.NodeProto, constants: Constants) -> bool:
    held = [name for name in node.input if constants.size(name) > 1]
    if node.domain not in STANDARD_DOMAINS:
        inside = any(
            len(a.floats) + len(a.ints) + len(a.s) > _LARGEST_ATTRIBUTE or math.prod(a.t.dims) > 1
            for a in node.attribute
        )
        known = node.op_type in _WEIGHTLESS or normalises(node)
        return not known and (bool(held) or inside)
    if is_layer(node):  # its weight is no plain constant; it may be computed from some
        return bool(held) or (bool(weight_input(node)) and constants.is_fixed(weight_input(node)))
    bodies = [body for a in node.attribute for body in (a.g, *a.graphs) if body.node]
    if bodies:
        return any(map(_holds_layers, bodies))
    if node.op_type in FREE | _ELEMENTWISE | set(POOLS) or normalises(node):
        return False
    return any(constants.rank(name) > 1 for name in held)


def _holds_layers(graph: onnx.GraphProto) -> bool:
    """Whether a branch or a body of a loop has layers, or further bodies."""
    return any(
        is_layer(node) or any(a.g.node or a.graphs for a in node.attribute) for node in graph.node
    )
