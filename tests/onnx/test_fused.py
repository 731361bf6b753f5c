"""Fused operators written out, beside onnxruntime, which runs them as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from strzoo.onnx.fused import expand_fused
from tests.helpers.engine.models import images, run_onnxruntime


@pytest.mark.parametrize("other", ["other", "y_convolved", "y_min"])
def test_names_within_are_none_of_the_model(other: str) -> None:
    w = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Neg", ["x"], [other]),
        helper.make_node(
            "FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Clip",
            activation_params=[-0.5, 0.5],
        ),
        helper.make_node("Add", ["y", other], ["z"]),
    ]  # fmt: skip
    ports = [helper.make_tensor_value_info(name, 1, ["N", 4, 7, 6]) for name in "xz"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [numpy_helper.from_array(w, "w")])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    written = expand_fused(model)
    assert {node.domain for node in written.graph.node} == {""}
    onnx.checker.check_model(written)
    x = images((4, 7, 6))
    expected = run_onnxruntime(model, x)
    np.testing.assert_allclose(run_onnxruntime(written, x), expected, rtol=1e-5, atol=1e-5)
