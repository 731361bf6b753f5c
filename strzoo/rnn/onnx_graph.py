"""A FastGRNN classifier as an ONNX graph: matrix products around a Scan over the steps.

Built node by node, so that batch and length stay free, and each matrix keeps its name. Layers and
directions are one Scan each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from strzoo.errors import UsageError
from strzoo.onnx.graphs import DEFAULT_OPSET, check_opset
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.quantisation import Int8Classifier, Int8Matrix

INPUT, OUTPUT, BATCH, STEPS = "sequences", "logits", "batch", "steps"
_IR_VERSION = 10  # onnxruntime 1.18 reads up to this
_FLOAT = TensorProto.FLOAT
_RAMPS = {"quantSigm": (1.0, 0.5), "quantSigm4": (2.0, 0.25)}  # add, then multiply, then clip


class _Graph:
    """Nodes and constants of the main graph."""

    def __init__(self, int8: Int8Classifier | None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._int8 = int8

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: Tensor | NDArray[Any]) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def matrix(self, name: str, value: Tensor) -> str:
        """The matrix [in, out] of that parameter, stored in int8 if the network is."""
        found: Int8Matrix | None = None if self._int8 is None else self._int8.matrices[name]
        if found is None:
            return self.constant(name, value.float())
        stored = self.constant(f"{name}_quantized", found.values)
        scale = self.constant(f"{name}_scale", found.scale)
        # Not DequantizeLinear: onnxruntime fuses that into a product with quantised activations.
        real = self.node("Cast", [stored], f"{name}_real", to=_FLOAT)
        return self.node("Mul", [real, scale], name)


def build_onnx(
    model: SequenceClassifier | Int8Classifier, *, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """The ONNX model: `sequences` float32 [batch, steps, in] in, `logits` [batch, classes] out.

    Args:
        model: learned ranks are folded; of an int8 network the int8 matrices are stored.
        opset: version of the default operator set.

    Raises:
        UsageError: no such opset.
    """
    check_opset(opset)
    int8 = model if isinstance(model, Int8Classifier) else None
    network = model.network if isinstance(model, Int8Classifier) else model.fold()
    if network.mean.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"weights are {network.mean.dtype}; export a float32 network")
    graph = _Graph(int8)
    rnn, size = network.rnn, network.rnn.input_size
    mean, std = (
        graph.constant("mean", network.mean.float()),
        graph.constant("std", network.std.float()),
    )
    centred = graph.node("Sub", [INPUT, mean], "centred")
    normal = graph.node("Div", [centred, std], "normalised")
    steps = graph.node("Transpose", [normal], "by_step", perm=[1, 0, 2])
    final: list[str] = []
    for layer, cells in enumerate(rnn.layers):
        outputs, final = [], []
        for direction, cell in enumerate(cells):
            prefix = f"rnn.{'reverse_' if direction else ''}cells.{layer}."
            states, last = _add_cell(graph, cell, prefix, steps, reverse=bool(direction))
            outputs.append(states)
            final.append(last)
        steps = outputs[0]
        if len(outputs) > 1:
            steps = graph.node("Concat", outputs, f"layer{layer}", axis=2)
    last = final[0]
    if len(final) > 1:
        last = graph.node("Concat", final, "final", axis=1)
    weight = graph.matrix("fc.weight", network.fc.weight.t())
    scores = graph.node("MatMul", [last, weight], "scores")
    graph.node("Add", [scores, graph.constant("fc.bias", network.fc.bias.float())], OUTPUT)
    length = network.steps or STEPS
    made = helper.make_graph(
        graph.nodes,
        "strzoo",
        [helper.make_tensor_value_info(INPUT, _FLOAT, [BATCH, length, size])],
        [helper.make_tensor_value_info(OUTPUT, _FLOAT, [BATCH, network.num_classes])],
        graph.constants,
    )
    found = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
    found.ir_version = _IR_VERSION
    return found


def _add_cell(
    graph: _Graph, cell: FastGRNNCell, prefix: str, steps: str, *, reverse: bool
) -> tuple[str, str]:
    """Names of the states [T, B, H] and of the last one computed [B, H]."""
    size = cell.hidden_size

    def name(text: str) -> str:
        return prefix + text

    driven = steps
    for key in [k for k in ("W", "W1", "W2") if k in cell._parameters]:
        weight = graph.matrix(name(key), getattr(cell, key))
        driven = graph.node("MatMul", [driven, weight], name(f"x_{key}"))
    recurrent = [
        graph.matrix(name(k), getattr(cell, k)) for k in ("U", "U1", "U2") if k in cell._parameters
    ]
    # The first state: zeros [B, H].
    shape = graph.node("Shape", [steps], name("shape"))
    one = graph.constant(name("one"), np.array([1], np.int64))
    batch = graph.node("Gather", [shape, one], name("batch"), axis=0)
    hidden = graph.constant(name("hidden"), np.array([size], np.int64))
    wanted = graph.node("Concat", [batch, hidden], name("state_shape"), axis=0)
    zero = helper.make_tensor("value", _FLOAT, [1], [0.0])
    initial = graph.node("ConstantOfShape", [wanted], name("initial"), value=zero)
    zeta, nu = (float(torch.sigmoid(value.detach().float())) for value in (cell.zeta, cell.nu))
    values: dict[str, Tensor | NDArray[Any]] = {
        "bias_gate": cell.bias_gate.float(),
        "bias_update": cell.bias_update.float(),
        "minus_zeta": np.array(-zeta, np.float32),
        "zeta_and_nu": np.array(zeta + nu, np.float32),
    }
    for label, value in values.items():
        graph.constant(name(label), value)
    body = _step(graph, cell, prefix, recurrent)
    direction = int(reverse)
    graph.nodes.append(
        helper.make_node(
            "Scan",
            [initial, driven],
            [name("last"), name("states")],
            name("scan"),
            body=body,
            num_scan_inputs=1,
            scan_input_directions=[direction],
            scan_output_directions=[direction],
        )
    )
    return name("states"), name("last")


def _step(graph: _Graph, cell: FastGRNNCell, prefix: str, recurrent: list[str]) -> onnx.GraphProto:
    """The body of the Scan: h and x W in, h' out twice (as the state and as an output)."""
    nodes: list[onnx.NodeProto] = []

    def node(kind: str, inputs: list[str], output: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [prefix + output], prefix + output))
        return prefix + output

    state, driven = prefix + "h", prefix + "driven"
    product = state
    for index, factor in enumerate(recurrent):
        product = node("MatMul", [product, factor], f"h_U{index + 1}")
    total = node("Add", [driven, product], "total")
    gates = []
    for key, kind in (("gate", cell.gate), ("update", cell.update)):
        value = node("Add", [total, f"{prefix}bias_{key}"], f"{key}_input")
        gates.append(_add_gate(graph, nodes, kind, value, f"{prefix}{key}"))
    z, c = gates
    # h' = z (h - zeta c) + (zeta + nu) c
    lowered = node("Mul", [c, prefix + "minus_zeta"], "lowered")
    difference = node("Add", [state, lowered], "difference")
    kept = node("Mul", [z, difference], "kept")
    added = node("Mul", [c, prefix + "zeta_and_nu"], "added")
    after = node("Add", [kept, added], "after")
    again = node("Identity", [after], "output")
    size = cell.hidden_size
    shapes = {one: helper.make_tensor_value_info(one, _FLOAT, [None, size]) for one in
              (state, driven, after, again)}  # fmt: skip
    return helper.make_graph(
        nodes, prefix + "step", [shapes[state], shapes[driven]], [shapes[after], shapes[again]]
    )


def _add_gate(
    graph: _Graph, nodes: list[onnx.NodeProto], kind: str, value: str, output: str
) -> str:
    plain = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
    if kind in plain:
        nodes.append(helper.make_node(plain[kind], [value], [output], output))
        return output
    low, high = (-1.0, 1.0) if kind == "quantTanh" else (0.0, 1.0)
    if kind in _RAMPS:
        for operator, number in zip(("Add", "Mul"), _RAMPS[kind], strict=True):
            made = f"{output}_{operator.lower()}"
            constant = graph.constant(f"{made}_value", np.array(number, np.float32))
            nodes.append(helper.make_node(operator, [value, constant], [made], made))
            value = made
    limits = [
        graph.constant(f"{output}_{end}", np.array(number, np.float32))
        for end, number in (("low", low), ("high", high))
    ]
    nodes.append(helper.make_node("Clip", [value, *limits], [output], output))
    return output
