"""Reading ONNX: each operator, in the forms that exporters write, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import Affine, AveragePool, Convolution, Linear, MaxPool
from strzoo.engine.passes import simplify
from tests.helpers.engine.models import OLD_PEER, assert_agrees, build

RANDOM = np.random.default_rng(0)
MAP = "float[N, A, B, C] y"


def weights(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        "group = 1",
        "pads = [1, 0, 2, 1], strides = [2, 1]",
        "dilations = [2, 1], pads = [2, 1, 2, 1], kernel_shape = [3, 2]",
        'auto_pad = "SAME_UPPER", strides = [2, 3]',
        'auto_pad = "SAME_LOWER", strides = [2, 2]',
        'auto_pad = "VALID", strides = [2, 2]',
    ],
)
def test_convolutions_with_any_padding(attributes: str) -> None:
    node = f"y = Conv <{attributes}> (x, w, b)"
    assert_agrees(build(node, output=MAP, w=weights(5, 4, 3, 2), b=weights(5)))


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_and_depthwise_convolutions(groups: int) -> None:
    node = f"y = Conv <group = {groups}> (x, w)"
    assert_agrees(build(node, output=MAP, w=weights(8, 4 // groups, 2, 2)))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [2, 2]",
        "kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1",
        "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]",
        "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 0, 1], ceil_mode = 1",
        'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"',
        'kernel_shape = [2, 3], strides = [3, 2], auto_pad = "SAME_LOWER"',
        "kernel_shape = [2, 2], dilations = [2, 3], strides = [2, 1]",
    ],
)
def test_pools(operator: str, attributes: str) -> None:
    modes = [0, 1] if operator == "AveragePool" else [None]
    if "SAME_UPPER" in attributes and OLD_PEER:
        modes = modes[:1]
    for counted in modes:
        mode = "" if counted is None else f", count_include_pad = {counted}"
        assert_agrees(build(f"y = {operator} <{attributes}{mode}> (x)", output=MAP, opset=19))


def test_rounding_up_counts_no_window_that_starts_beyond_the_map() -> None:
    # 7 pixels, kernel 1, stride 3: starts at 0, 3, 6; 6 pixels: 0, 3, and 6 is outside.
    node = "y = MaxPool <kernel_shape = [1, 1], strides = [3, 3], ceil_mode = 1> (x)"
    assert read_graph(build(node, output=MAP)).shapes["y"] == (4, 3, 2)


def test_padding_that_rounding_up_adds_is_never_counted() -> None:
    # Rows 0-1, 2-3, 4-5 and 6 with the row beyond the map, which is no padding of the file's.
    attributes = "kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, count_include_pad = 1"
    (pool,) = read_graph(build(f"y = AveragePool <{attributes}> (x)", output=MAP)).layers
    assert isinstance(pool, AveragePool)
    assert (pool.window.pads, pool.overhang) == ((0, 0, 1, 0), (1, 0))


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("y = ReduceMean <axes = [2, 3], keepdims = 0> (x)", 17),
        ("y = ReduceMean <axes = [-1, -2], keepdims = 0> (x)", 13),
        ("a = Constant <value_ints = [2, 3]> () y = ReduceMean <keepdims = 0> (x, a)", 18),
        ("a = Constant <value_ints = [-1, -2]> () p = ReduceMean (x, a) y = Flatten (p)", 18),
        ("p = GlobalAveragePool (x) y = Squeeze <axes = [2, 3]> (p)", 11),
        ("p = GlobalAveragePool (x) a = Constant <value_ints = [3]> () q = Squeeze (p, a) "
         "b = Constant <value_ints = [-1]> () y = Squeeze (q, b)", 18),
        ("y = Flatten (x)", 18),
        ("y = Flatten <axis = -3> (x)", 18),
        ("s = Constant <value_ints = [0, -1]> () y = Reshape (x, s)", 18),
        ("s = Constant <value_ints = [-1, 168]> () y = Reshape (x, s)", 18),
        ("s = Constant <value_ints = [-1, 4, 42]> () r = Reshape (x, s) y = Flatten (r)", 18),
        # view(x.size(0), -1), as exporters write it
        ("s = Shape (x) z = Constant <value_int = 0> () n = Gather <axis = 0> (s, z) "
         "a = Constant <value_ints = [0]> () u = Unsqueeze (n, a) "
         "m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (u, m) y = Reshape (x, t)", 18),
        # view(x.size(0), x.size(1) * x.size(2) * x.size(3))
        ("n = Shape <start = 0, end = 1> (x) r = Shape <start = 1> (x) "
         "i = Constant <value_ints = [0]> () j = Constant <value_ints = [1]> () "
         "k = Constant <value_ints = [2]> () a = Gather (r, i) b = Gather (r, j) "
         "c = Gather (r, k) d = Mul (a, b) e = Mul (d, c) t = Concat <axis = 0> (n, e) "
         "y = Reshape (x, t)", 18),
    ],
)  # fmt: skip
def test_means_and_reshapes_that_end_in_a_vector(body: str, opset: int) -> None:
    assert_agrees(build(body, opset=opset))


@pytest.mark.parametrize(
    "node",
    [
        "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, w, b)",
        "y = Gemm <transB = 1> (f, w, c)",
        "y = Gemm <transB = 1> (f, w)",
        "y = Gemm (f, t, r)",
        "y = MatMul (f, t)",
        "p = MatMul (f, t) y = Add (b, p)",
        "p = MatMul (f, t) q = Sub (p, r) y = Mul (q, b)",
    ],
)
def test_linear_layers(node: str) -> None:
    w = weights(5, 168)
    constants = {"w": w, "t": w.T.copy(), "b": weights(5), "c": weights(1), "r": weights(1, 5)}
    model = build(f"f = Flatten (x) {node}", **constants)
    assert_agrees(model)
    assert type(simplify(read_graph(model)).layers[-1]) is Linear


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("y = Clip <min = -0.5, max = 0.25> (x)", 6),
        ("y = Clip (x, low, high)", 18),
        ("y = Clip (x, , high)", 18),
        ("y = Clip (x, low)", 18),
        ("y = Relu (x)", 18),
        ("r = Relu (x) y = Add (r, x)", 18),
        ("y = Add (x, x)", 18),
        ("y = Concat <axis = 1> (x, x)", 18),
        ("c = Concat <axis = -3> (x) y = Relu (c)", 18),
        ("y = Mul (high, x)", 18),
        ("y = Div (x, low)", 18),
        ("y = Sub (low, x)", 18),
        ("y = Add (x, channels)", 18),
        ("y = Sub (channels, x)", 18),
        ("y = BatchNormalization <epsilon = 0.1> (x, flat, flat, flat, spread)", 18),
        ("i = Constant <value_ints = [3, 0, -2]> () y = Gather <axis = 1> (x, i)", 18),
        ("i = Constant <value_int = 2> () g = Gather <axis = 1> (x, i) g2 = Mul (g, high) "
         "a = Constant <value_ints = [1]> () y = Unsqueeze (g2, a)", 18),
        ("i = Identity (x) d, m = Dropout (i) c = Cast <to = 1> (d) y = Relu (c)", 18),
    ],
)  # fmt: skip
def test_operators_that_keep_a_map(body: str, opset: int) -> None:
    constants = {
        "low": np.float32(-0.5),
        "high": np.float32(0.75),
        "flat": weights(4),
        "spread": np.abs(weights(4)),
        "channels": weights(4, 1, 1),
    }
    assert_agrees(build(body, output=MAP, opset=opset, **constants))


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_of_a_vector(axis: int, opset: int) -> None:
    assert_agrees(build(f"f = Flatten (x) y = Softmax <axis = {axis}> (f)", opset=opset))


def test_softmax_over_the_channels_of_one_pixel() -> None:
    body = "p = GlobalAveragePool (x) s = Softmax <axis = 1> (p) y = Flatten (s)"
    assert_agrees(build(body))


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
def test_a_map_of_one_pixel_meets_what_was_made_of_a_vector(operator: str) -> None:
    body = (
        "v = Flatten (x) g = Gemm (v, w) s = Reshape (g, places) "
        f"c = {operator} (x, s) y = Flatten (c)"
    )
    kernel = 2 + np.abs(weights(4, 4))  # no quotient by almost nothing
    model = build(body, image="float[N, 4, 1, 1] x", w=kernel, places=np.array([0, 4, 1, 1]))
    assert_agrees(model)


def test_scales_of_constants_are_folded_before_they_are_weights() -> None:
    # A weight that is stored transposed, in halves, and scaled.
    body = """t = Transpose <perm = [1, 0]> (w) h = Cast <to = 1> (t) s = Mul (h, two)
              f = Flatten (x) y = MatMul (f, s)"""
    w = weights(3, 168).astype(np.float16)
    model = build(body, w=w, two=np.float32(2))
    (linear,) = [layer for layer in read_graph(model).layers if isinstance(layer, Linear)]
    np.testing.assert_array_equal(linear.weight, 2 * w.astype(np.float32))
    assert_agrees(model)


def test_a_fixed_batch_is_forgotten() -> None:
    body = "s = Constant <value_ints = [2, 168]> () y = Reshape (x, s)"
    model = build(body, image="float[2, 4, 7, 6] x", output="float[2, 168] y")
    assert read_graph(model).shapes == {"x": (4, 7, 6), "x_flat": (168,)}


def test_an_open_size_is_given_by_the_caller_or_by_our_metadata() -> None:
    model = build("y = Relu (x)", image="float[N, 3, H, W] x", output=MAP)
    assert read_graph(model, size=(5, 9)).shapes["y"] == (3, 5, 9)
    model.metadata_props.add(
        key="strzoo.preprocessing", value='{"input_height": 8, "input_width": 10}'
    )
    assert read_graph(model).shapes["y"] == (3, 8, 10)
    assert read_graph(model, size=(5, 9)).shapes["y"] == (3, 5, 9)


def test_weights_in_external_files_are_read(tmp_path: Path) -> None:
    model = build("y = Conv (x, w)", output=MAP, w=weights(3, 4, 2, 2))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    (layer,) = read_graph(path).layers
    assert isinstance(layer, Convolution)
    expected = numpy_helper.to_array(
        build("y = Conv (x, w)", output=MAP, w=layer.weight).graph.initializer[0]
    )
    np.testing.assert_array_equal(layer.weight, expected)
    assert_agrees(str(path))


def test_bytes_are_read_like_a_file_and_names_are_kept() -> None:
    model = build("a = MaxPool <kernel_shape = [2, 2]> (x) y = Relu (a)", output=MAP)
    for node, name in zip(model.graph.node, ("pool", "pool"), strict=True):
        node.name = name
    graph = read_graph(model.SerializeToString())
    assert [layer.name for layer in graph.layers] == ["pool", "pool_2"]
    assert isinstance(graph.layers[0], MaxPool)


def test_what_the_output_does_not_need_is_not_read() -> None:
    model = build("s = Sigmoid (x) y = Relu (x)", output=MAP)
    assert len(read_graph(model).layers) == 1


def test_a_batch_norm_is_its_scale_and_shift() -> None:
    # gain 6, offset 1, mean 2, variance 9 - epsilon: y = (x - 2) / 3 * 6 + 1 = 2 x - 3
    four = np.ones(4, np.float32)
    body = "y = BatchNormalization <epsilon = 1.0> (x, g, o, m, v)"
    model = build(body, output=MAP, g=6 * four, o=four, m=2 * four, v=8 * four)
    (layer,) = read_graph(model).layers
    assert isinstance(layer, Affine)
    assert layer.scale.tolist() == [2] * 4
    assert layer.shift.tolist() == [-3] * 4
