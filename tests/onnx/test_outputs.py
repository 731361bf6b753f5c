"""Which output answers, what its numbers are, and where a background class is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strzoo.errors import UsageError
from strzoo.onnx.outputs import (
    choose_output,
    find_activation,
    find_background,
)

FLOAT, INT64, HALF = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16
Output = tuple[str, int, list[int | str | None]]
Node = tuple[str, str, str, dict[str, Any]]


def model(
    body: list[Node],
    outputs: list[Output],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A graph of nodes (operator, inputs, outputs, attributes) and outputs with type and shape."""
    nodes = [
        helper.make_node(kind, inputs.split(), made.split(), **attributes)
        for kind, inputs, made, attributes in body
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


HEAD: list[Node] = [("Flatten", "x", "f", {}), ("Gemm", "f w", "y", {})]
SOFTMAX: Node = ("Softmax", "y", "p", {"axis": 1})
ARGMAX: Node = ("ArgMax", "y", "a", {"axis": 1, "keepdims": 0})


@pytest.mark.parametrize(
    ("body", "outputs", "chosen", "classes", "activation"),
    [
        ([*HEAD], [("y", FLOAT, ["N", 10])], "y", 10, None),
        ([*HEAD, SOFTMAX], [("p", FLOAT, ["N", 10])], "p", 10, "softmax"),
        # MLPerf's ResNet50: the integer comes first, the shape of the probabilities is open
        ([*HEAD, SOFTMAX, ARGMAX], [("a", INT64, ["N"]), ("p", FLOAT, ["N", None])], "p", None,
         "softmax"),
        ([*HEAD, ARGMAX], [("a", INT64, ["N", 1]), ("y", HALF, ["N", 10])], "y", 10, None),
        # logits win over their own Softmax, whatever lies between
        ([*HEAD, SOFTMAX], [("p", FLOAT, ["N", 10]), ("y", FLOAT, ["N", 10])], "y", 10, None),
        ([*HEAD, ("Identity", "y", "i", {}), ("Softmax", "i", "s", {}), ("Squeeze", "s", "p", {})],
         [("y", FLOAT, ["N", 10]), ("p", FLOAT, ["N", 10])], "y", 10, None),
        # features are what the answer is computed from
        ([*HEAD], [("f", FLOAT, ["N", 192]), ("y", FLOAT, ["N", 10])], "y", 10, None),
        ([*HEAD, SOFTMAX], [("f", FLOAT, ["N", 192]), ("p", FLOAT, ["N", 10])], "p", 10,
         "softmax"),
        # maps are no answer; axes of 1 are put aside
        ([*HEAD], [("x", FLOAT, ["N", 3, 8, 8]), ("y", FLOAT, ["N", 10, 1, 1])], "y", 10, None),
        ([*HEAD], [("m", FLOAT, ["N", 64, None, None]), ("y", FLOAT, ["N", 1, 1, 10])], "y", 10,
         None),
        # the best three of them are scores of no class in particular
        ([*HEAD, SOFTMAX, ("TopK", "p k", "v i", {"axis": 1})],
         [("v", FLOAT, ["N", 3]), ("i", INT64, ["N", 3]), ("p", FLOAT, ["N", 10])], "p", 10,
         "softmax"),
        # an auxiliary head beside the main one
        ([*HEAD, ("Gemm", "f v", "aux_logits", {})],
         [("aux_logits", FLOAT, ["N", 10]), ("y", FLOAT, ["N", 10])], "y", 10, None),
        # ImageNet's thousand beside another head
        ([*HEAD, ("Gemm", "f v", "z", {})], [("z", FLOAT, ["N", 4]), ("y", FLOAT, ["N", 1001])],
         "y", 1001, None),
    ],
)  # fmt: skip
def test_the_output_with_logits_or_probabilities_is_chosen(
    body: list[Node],
    outputs: list[Output],
    chosen: str,
    classes: int | None,
    activation: str | None,
) -> None:
    for order in (outputs, outputs[::-1]):
        made = model(body, order)
        found = choose_output(made)
        assert (found.name, found.classes, found.activation) == (chosen, classes, activation)
        assert made.graph.output[found.index].name == chosen
        assert found.reason


TWO = model([*HEAD, ("Gemm", "f v", "z", {})], [("z", FLOAT, ["N", 4]), ("y", FLOAT, ["N", 9])])


def test_equally_plausible_outputs_are_listed_and_can_be_named() -> None:
    with pytest.raises(UsageError, match=r"2 outputs .* \(z, y\).*--output.*z \(float \[N, 4\]\)"):
        choose_output(TWO)
    assert choose_output(TWO, name="z").classes == 4
    assert choose_output(TWO, classes=9).name == "y"
    assert choose_output(TWO, classes=3).name == "z"  # with a background class
    with pytest.raises(UsageError, match="no output 'w'; the outputs are z"):
        choose_output(TWO, name="w")


def test_integers_scalars_and_maps_hold_no_classes() -> None:
    refused: list[Output] = [("a", INT64, ["N"]), ("y", FLOAT, ["N", 5, 7, 7])]
    refused += [("y", FLOAT, []), ("y", FLOAT, ["N", 1])]
    for output in refused:
        made = model([*HEAD, ARGMAX], [output])
        with pytest.raises(UsageError, match="no output holds classes"):
            choose_output(made)
        with pytest.raises(UsageError, match="does not hold classes"):
            choose_output(made, name=output[0])


def test_many_outputs_make_no_endless_message() -> None:
    made = model(HEAD, [(f"{'o' * 300}{i}", FLOAT, ["N", 10]) for i in range(500)])
    with pytest.raises(UsageError, match="and 488 more") as caught:
        choose_output(made)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("tail", "activation"),
    [
        ([("Softmax", "y", "p", {"axis": -1})], "softmax"),
        ([("Sigmoid", "y", "p", {})], "sigmoid"),
        ([("LogSoftmax", "y", "p", {"axis": 1})], "log-softmax"),
        ([("Softmax", "y", "s", {}), ("Reshape", "s t", "r", {}), ("Cast", "r", "p", {"to": 1})],
         "softmax"),
        ([("Softmax", "y", "s", {}), ("QuantizeLinear", "s q", "r", {}),
          ("DequantizeLinear", "r q", "p", {})], "softmax"),
        ([("Softmax", "y", "p", {"axis": 0})], None),
        ([("Softmax", "y", "s", {}), ("Add", "s y", "p", {})], None),
        ([("Relu", "y", "p", {})], None),
        ([("Identity", "p", "p", {})], None),
    ],
)  # fmt: skip
def test_the_end_of_the_graph_says_what_its_numbers_are(
    tail: list[Node], activation: str | None
) -> None:
    assert find_activation(model([*HEAD, *tail], [("p", FLOAT, ["N", 10])]), "p") == activation


@pytest.mark.parametrize("kind", ["Gemm", "transB", "MatMul", "Conv"])
@pytest.mark.parametrize("position", ["first", "last"])
def test_the_background_class_is_the_one_that_was_never_trained_for(
    kind: str, position: str
) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.05, (1001, 16)).astype(np.float32)
    bias = rng.normal(0, 0.02, 1001).astype(np.float32)
    body: list[Node]
    row = 0 if position == "first" else 1000
    weight[row] -= 0.1  # pushed down for every image, by weights on features that are positive
    bias[row] = -0.3
    if kind == "Conv":
        body = [("GlobalAveragePool", "x", "g", {}), ("Conv", "g w b", "y", {})]
        made = model(body, [("y", FLOAT, ["N", 1001, 1, 1])],
                     {"w": weight.reshape(1001, 16, 1, 1), "b": bias})  # fmt: skip
    elif kind == "MatMul":
        body = [("MatMul", "x w", "m", {}), ("Add", "m b", "y", {})]
        made = model(body, [("y", FLOAT, ["N", 1001])], {"w": weight.T.copy(), "b": bias})
    else:
        transposed = kind == "transB"
        body = [("Gemm", "x w b", "y", {"transB": int(transposed)})]
        made = model(body, [("y", FLOAT, ["N", 1001])],
                     {"w": weight if transposed else weight.T.copy(), "b": bias})  # fmt: skip
    assert find_background(made, 1001)[0] == position
    other = "last" if position == "first" else "first"
    names = [f"c{i}" for i in range(1001)]
    names[0 if other == "first" else 1000] = "Background"
    assert find_background(made, 1001, names)[0] == other  # names are plainer than weights


def test_tensorflows_order_is_assumed_where_nothing_tells() -> None:
    position, reason = find_background(model(HEAD, [("y", FLOAT, ["N", 1001])]), 1001)
    assert (position, reason) == ("first", "first, as TensorFlow's networks have it")
