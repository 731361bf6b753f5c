"""What a walk over the nodes keeps: nothing of a node that cannot be read, no name twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import strzoo
from strzoo.engine.frontend.builder import GraphBuilder
from strzoo.engine.frontend.problems import Unsupported
from strzoo.engine.frontend.reading import OPERATORS
from tests.helpers.engine.models import build, images, run_onnxruntime

MAP = "float[N, A, B, C] y"
RANDOM = np.random.default_rng(3)
CONSTANTS: dict[str, Any] = {
    "w": RANDOM.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "s": RANDOM.standard_normal(4).astype(np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "flat": np.array([-1, 42]),
    "back": np.array([-1, 4, 7, 6]),
    "half": np.array([2, 2]),
}


def assert_agrees(model: onnx.ModelProto) -> None:
    x = images((4, 7, 6))
    found = strzoo.compile(model, 1, cache=False, islands="missing")(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("operator", "body"),
    [
        ("Pad", "p = Pad (c, pads) y = Conv (p, w)"),
        ("Transpose", "t = Transpose <perm = [0, 2, 3, 1]> (c) r = Relu (t) "
         "y = Transpose <perm = [0, 2, 1, 3]> (r)"),
        ("Transpose", "t = Transpose <perm = [0, 1, 3, 2]> (c) y = Conv (t, w)"),
        ("Transpose", "t = Transpose <perm = [1, 0, 2, 3]> (c) u = Transpose <perm = [1, 0, 3, 2]> "
         "(t) y = Conv (u, w)"),
        ("Relu", "t = Transpose <perm = [0, 2, 3, 1]> (c) r = Relu (t) "
         "u = Transpose <perm = [0, 3, 1, 2]> (r) y = Conv (u, w)"),
        ("Reshape", "r = Reshape (c, flat) n = Neg (r) b = Reshape (n, back) y = Conv (b, w)"),
        ("Split", "a, b = Split <axis = 1> (c, half) j = Concat <axis = 1> (b, a) y = Conv (j, w)"),
        ("Sum", "a = Sum (c, x, c) y = Conv (a, w)"),
        ("InstanceNormalization", "i = InstanceNormalization (c, s, s) y = Conv (i, w)"),
    ],
)  # fmt: skip
def test_of_a_node_that_cannot_be_read_after_all_nothing_is_kept(
    operator: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = OPERATORS[operator]

    def give_up(builder: GraphBuilder, node: onnx.NodeProto) -> None:
        rule(builder, node)
        raise Unsupported("after it was read")

    monkeypatch.setitem(OPERATORS, operator, give_up)
    assert_agrees(build(f"c = Conv (x, w) {body}", output=MAP, opset=17, **CONSTANTS))


@pytest.mark.parametrize(
    "body",
    [
        "a = Sum (c, x, x) y = Mul (a, a_1)",
        "z_gelu = Conv (x, w) d = Div (c, root) e = Erf (d) g = Add (e, one) z = Mul (c, g) "
        "y = Add (z, z_gelu)",
        "p = GlobalAveragePool (c) q_flat_of_p = Conv (x, w) q = Conv (p, w) f = Flatten (q) "
        "m = Gemm (f, square) r = Reshape (m, pixel) y = Mul (q_flat_of_p, r)",
    ],
)
def test_names_that_are_made_up_are_none_of_the_file(body: str) -> None:
    weights: dict[str, Any] = {
        "w": CONSTANTS["w"],
        "a_1": np.float32(5),
        "root": np.float32(2**0.5),
        "one": np.float32(1),
        "square": RANDOM.standard_normal((4, 4)).astype(np.float32),
        "pixel": np.array([0, 4, 1, 1]),
    }
    assert_agrees(build(f"c = Conv (x, w) {body}", output=MAP, opset=17, **weights))


@pytest.mark.parametrize(
    "body",
    [
        "e, y = Split <axis = 1> (c, none_first)",
        "e, r = Split <axis = 1> (c, none_first) y = Concat <axis = 1> (r, e)",
        "e = Gather <axis = 1> (c, none) y = Concat <axis = 1> (e, c)",
        "e = Conv (c, no_weights) y = Concat <axis = 1> (e, c)",
        "t = Transpose <perm = [0, 2, 3, 1]> (c) e = MatMul (t, no_matrix) "
        "j = Concat <axis = 3> (e, t) y = Transpose <perm = [0, 3, 1, 2]> (j)",
    ],
)
def test_what_leaves_nothing_is_left_to_onnxruntime(body: str) -> None:
    empty: dict[str, Any] = {
        "none": np.zeros(0, np.int64),
        "none_first": np.array([0, 4]),
        "no_weights": np.zeros((0, 4, 1, 1), np.float32),
        "no_matrix": np.zeros((4, 0), np.float32),
    }
    assert_agrees(build(f"c = Conv (x, w) {body}", output=MAP, opset=17, **CONSTANTS, **empty))
