"""Networks that leave height and width open: a plan for each size of images."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest

import strzoo
from strzoo.engine import open_sizes
from strzoo.errors import StrzooError, UsageError
from tests.helpers.engine.models import build, run_onnxruntime

W = np.random.default_rng(3).standard_normal((4, 3, 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    body = """c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w) s = Shape (x)
        n = Slice (s, two, four) k = Constant <value_ints = [-1, 4]> ()
        z = Concat <axis = 0> (k, n) u = Resize <mode = "linear"> (c, , , z)
        y = Relu (u)"""
    fields: dict[str, Any] = {"w": W, "two": np.array([2]), "four": np.array([4])}
    made = build(body, image="float[N, 3, H, W] x", output="float[N, 4, H, W] y", **fields)
    # Resize takes the number of images as it is: one.
    made.graph.node[3].attribute[0].ints[0] = 1
    return made


def images(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((batch, 3, height, width), np.float32)


@pytest.mark.slow
def test_each_size_has_a_plan_and_few_are_kept(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_sizes, "MOST_SIZES", 2)
    compiled = strzoo.compile(model, cache=False, islands="none")
    assert isinstance(compiled, open_sizes.OpenModel)
    assert compiled.inputs[0].shape == (None, 3, None, None)
    sizes = [(6, 8), (9, 7), (6, 8), (12, 5)]
    with ThreadPoolExecutor(4) as pool:  # two calls with images of one size among them
        found = list(pool.map(lambda size: compiled(images(*size)), sizes))
    for size, made in zip(sizes, found, strict=True):
        expected = run_onnxruntime(model, images(*size))
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
    assert len(compiled.sizes) == 2
    latest = compiled.sizes
    compiled(images(*latest[0]))
    assert compiled.sizes == latest[::-1]
    session = strzoo.InferenceSession(compiled)
    (given,) = session.run(None, {"x": images(*latest[0])})
    np.testing.assert_array_equal(given, compiled(images(*latest[0])))
    assert session.get_inputs()[0].shape == [None, 3, None, None]
    # What only one size has is refused, and so are wrong images; no size is compiled for them.
    uses: tuple[Callable[[], Any], ...] = (
        compiled.describe,
        lambda: compiled.save("net.strz"),
        lambda: pickle.dumps(compiled),
        lambda: strzoo.benchmark(compiled),
        lambda: compiled.input_shape,
    )
    for use in uses:
        with pytest.raises(UsageError, match="leaves the height open; give the size"):
            use()
    x = images(6, 8)
    for wrong in (x[:, :2], x[0], x[..., :0], x.astype(int)):
        with pytest.raises(StrzooError):
            compiled(wrong)
    assert compiled.sizes == latest[::-1]


def test_a_given_size_is_the_only_one(model: onnx.ModelProto) -> None:
    compiled = strzoo.compile(model, size=(6, 8), cache=False)
    assert compiled.input_shape == (3, 6, 8)
    with pytest.raises(UsageError, match=r"\[1, 3, 9, 7\]; expected \[N, 3, 6, 8\]"):
        compiled(images(9, 7))
    with pytest.raises(UsageError, match="leaves the height open"):
        strzoo.compile(model, precision="int16", cache=False)


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv <pads = [1, 1, 1, 1]> (x, w)",
        "c = Cast <to = 1> (h) d = Sub (x, mean) e = Div (d, c) y = Conv (e, w)",
        "i = Identity (w) p = Relu (x) y = Conv (p, i)",
        "q = DequantizeLinear <axis = 0> (w8, scale, zero) y = Conv (x, q)",
        "b = BatchNormalization (x, ones, mean1, mean1, ones) y = Conv (b, w)",
    ],
)
def test_channels_that_the_file_leaves_open_are_those_of_the_first_layer(body: str) -> None:
    made = build(
        body, image="float[N, C, 8, 9] x", output="float[N, 4, P, Q] y", w=W,
        w8=(10 * W).astype(np.int8), scale=np.full(4, 0.1, np.float32), zero=np.zeros(4, np.int8),
        mean=np.full((1, 3, 1, 1), 0.4, np.float32), h=np.full((3, 1, 1), 2, np.float16),
        ones=np.ones(3, np.float32), mean1=np.full(3, 0.1, np.float32),
    )  # fmt: skip
    compiled = strzoo.compile(made, cache=False, islands="none")
    assert compiled.inputs[0].shape == (None, 3, 8, 9)
    expected = run_onnxruntime(made, images(8, 9))
    np.testing.assert_allclose(compiled(images(8, 9)), expected, rtol=1e-4, atol=1e-4)


def test_channels_that_no_layer_tells_are_asked_for() -> None:
    made = build(
        "y = Relu (x)", image="float[N, C, 8, 9] x", output="float[N, C, 8, 9] y", w=W
    )  # fmt: skip
    with pytest.raises(StrzooError, match=r"\[\?, \?, 8, 9\]"):
        strzoo.compile(made, cache=False, islands="none")
    compiled = strzoo.compile(made, cache=False)  # in onnxruntime
    np.testing.assert_array_equal(compiled(images(8, 9)), np.maximum(images(8, 9), 0))
