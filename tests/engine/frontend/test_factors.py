"""Constants that are zero, nearly so, infinite or NaN: nothing of them is folded into weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import strzoo
from tests.helpers.engine.models import build, images, run_onnxruntime

MAP = "float[N, A, B, C] y"
W = np.random.default_rng(2).standard_normal((4, 4, 1, 1)).astype(np.float32)


@pytest.mark.filterwarnings("error:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("number", [0.0, 1e-40, 1e36, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "node",
    [
        "Div (c, k)", "Mul (c, k)", "Add (c, k)", "Sub (k, c)", "Div (k, c)",
        "BatchNormalization <epsilon = 0.0> (c, some, some, some, k4)",
        "BatchNormalization <epsilon = 0.0> (c, some, some, some, minus)",
        "BatchNormalization <epsilon = 0.0> (c, k4, some, some, some)",
    ],
)  # fmt: skip
def test_any_constant_is_computed_with(node: str, number: float) -> None:
    x = images((4, 7, 6), 2)
    x[:, :, :2] = 0
    body = f"c = Conv (x, w) y = {node}"
    k, some = np.float32(number), np.array([0.5, 1, 2, 3], np.float32)
    weights: dict[str, Any] = {"k": k, "k4": np.full(4, k), "some": some, "minus": -some, "w": W}
    model = build(body, output=MAP, **weights)
    found = strzoo.compile(model, 1, cache=False, islands="missing")(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("alpha", "beta"), [(np.inf, 1.0), (1.0, np.nan), (1e38, 0.5)])
def test_any_factor_of_a_gemm_is_computed_with(alpha: float, beta: float) -> None:
    w = np.array([[0, 1, 0], [0, 2, 0]], np.float32).repeat(84, 0)
    model = build("f = Flatten (x) y = Gemm (f, w, b)", w=w, b=np.zeros(3, np.float32))
    for name, value in (("alpha", alpha), ("beta", beta)):
        model.graph.node[1].attribute.append(onnx.helper.make_attribute(name, value))
    x = np.abs(images((4, 7, 6), 2))
    found = strzoo.compile(model, 1, cache=False, islands="missing")(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-3)
