"""Graphs as other tools write them: biases in nodes of their own, open or missing input shapes,
several outputs, doubles. The network names the largest channel, so its answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.onnx.sessions import is_half_transformer

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
Node = tuple[str, str, str, dict[str, Any]]
EYE = np.eye(3, dtype=np.float32)
WEIGHTS = {"w": 9 * EYE, "b": np.zeros(3, np.float32), "k": 9 * EYE.reshape(3, 3, 1, 1)}
BODY: list[Node] = [("Conv", "x k", "c", {}), ("GlobalAveragePool", "c", "g", {}),
                    ("Flatten", "g", "f", {})]  # fmt: skip
HEAD: list[Node] = [*BODY, ("MatMul", "f w", "m", {}), ("Add", "b m", "y", {})]
BATCH = [(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8).contiguous(), torch.arange(3))]


def graph(
    nodes: list[Node],
    outputs: list[tuple[str, int, Any]],
    shape: list[int | str] | None,
    kind: int = FLOAT,
    weights: dict[str, np.ndarray] = WEIGHTS,
) -> onnx.ModelProto:
    made = helper.make_graph(
        [helper.make_node(n, i.split(), o.split(), **a) for n, i, o, a in nodes],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


IMAGES: list[int | str] = ["N", 3, 8, 8]
LOGITS = ("y", FLOAT, ["N", 3])


@pytest.mark.parametrize(
    ("nodes", "params"),
    [
        (HEAD, 9 + 9 + 3),
        ([*BODY, ("Gemm", "f w b", "y", {})], 9 + 9 + 3),
        ([*BODY, ("MatMul", "f w", "m", {}), ("Mul", "m s", "n", {}), ("Add", "n b", "y", {})],
         9 + 9 + 3),
        # a residual and a shift of all are no biases
        ([*BODY, ("MatMul", "f w", "m", {}), ("Add", "m f", "y", {})], 9 + 9),
        ([*BODY, ("MatMul", "f w", "m", {}), ("Add", "m s", "y", {})], 9 + 9),
    ],
)  # fmt: skip
def test_a_bias_that_is_added_counts_as_one_inside(nodes: list[Node], params: int) -> None:
    weights = {**WEIGHTS, "s": np.ones(1, np.float32)}
    report = strzoo.report(graph(nodes, [LOGITS], IMAGES, weights=weights))
    assert (report.params, report.weights, report.nonzeros) == (params, 18, 6)
    assert report.dense_macs == 9 * 8 * 8 + 9 + 3 * 8 * 8  # convolution, linear, pool


def test_an_input_without_a_shape_asks_for_the_size() -> None:
    model = graph(HEAD, [("y", FLOAT, None)], None)
    with pytest.raises(UsageError, match="'x' has no shape; pass the input size"):
        strzoo.report(model)
    assert strzoo.report(model, input_size=(3, 8, 8)).dense_macs == 9 * 64 + 9 + 3 * 64


TAIL: list[Node] = [*HEAD, ("Softmax", "y", "p", {"axis": 1}),
                    ("ArgMax", "p", "a", {"axis": 1, "keepdims": 0})]  # fmt: skip
TWO: list[Node] = [*HEAD, ("Gemm", "f w", "z", {})]


@pytest.mark.parametrize("engine", ["onnxruntime", "sparse"])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (graph(TAIL, [("a", INT64, ["N"]), ("p", FLOAT, ["N", 3])], IMAGES), {}),
        (graph(TWO, [LOGITS, ("z", FLOAT, ["N", 3])], IMAGES), {"output": "z"}),
        (graph([("Cast", "x", "v", {"to": FLOAT}), *[(n, i.replace("x", "v"), o, a)
                for n, i, o, a in HEAD]], [LOGITS], IMAGES, DOUBLE), {}),
    ],
    ids=["MLPerf", "two heads", "double"],
)  # fmt: skip
def test_both_engines_give_the_one_output_that_answers(
    engine: str, model: onnx.ModelProto, options: dict[str, Any]
) -> None:
    result = strzoo.evaluate(model, BATCH, engine=engine, **options)
    assert (result.correct_top1, result.images) == (3, 3)


def test_compile_gives_every_output_by_its_name() -> None:
    outputs: list[tuple[str, int, Any]] = [("a", INT64, ["N"]), ("p", FLOAT, ["N", 3])]
    made = strzoo.compile(graph(TAIL, outputs, IMAGES), cache=False)(BATCH[0][0])
    np.testing.assert_allclose(made["p"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(made["a"], made["p"].argmax(1))


def test_channels_that_the_file_leaves_open_are_those_of_the_first_convolution() -> None:
    model = graph(HEAD, [LOGITS], ["N", "C", "H", "W"])
    assert strzoo.compile(model, size=8, cache=False).input_shape == (3, 8, 8)


@pytest.mark.parametrize("place", [b"Flatten", b"\x01N", b"\x01g", b"vendor_name"])
def test_names_that_are_no_text_are_damage(place: bytes) -> None:
    model = graph(BODY, [("f", FLOAT, ["N", 3])], IMAGES)
    model.producer_name = "vendor_name"
    content = model.SerializeToString()
    assert place in content
    damaged = content.replace(place, place[:-1] + b"\xff")
    with pytest.raises(IntegrityError, match="a name in it is no text"):
        strzoo.inspect_onnx(damaged)


def test_fp16_transformers_of_ours_are_known_whose_layouts_end_onnxruntime() -> None:
    model = graph([*BODY, ("LayerNormalization", "f b", "y", {})], [LOGITS], IMAGES)
    assert not is_half_transformer(model.SerializeToString())
    for precision, known in (("fp32", False), ("fp16", True)):
        helper.set_model_props(model, {"strzoo.precision": precision})
        assert is_half_transformer(model.SerializeToString()) == known
