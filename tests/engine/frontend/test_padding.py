"""Sum, Pad and the Transposes around it, as onnxruntime computes them."""

from __future__ import annotations

import numpy as np
import pytest

import strzoo
from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.passes import simplify
from strzoo.errors import UsageError
from tests.helpers.engine.models import assert_agrees, build, images, run_onnxruntime

W = np.random.default_rng(2).standard_normal((5, 4, 3, 3)).astype(np.float32)
MAP = "float[N, A, B, C] y"
PADS = np.array([0, 0, 1, 2, 0, 0, 3, 1])
LAST = np.array([0, 1, 2, 0, 0, 3, 1, 0])
LOWEST = np.float32(-3.4028235e38)


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("p = Pad (x, pads) y = Conv <strides = [2, 2]> (p, w)", 13),
        ("p = Pad (x, pads, zero) y = Conv <auto_pad = \"SAME_UPPER\"> (p, w)", 13),
        ("p = Pad <mode = \"constant\", pads = [0, 0, 1, 2, 0, 0, 3, 1]> (x) y = Conv (p, w)", 9),
        ("p = Pad (x, sides, zero, axes) y = Conv <pads = [1, 0, 0, 1]> (p, w)", 18),
        ("p = Pad (x, pads) y = Relu (p)", 13),
        ("p = Pad (x, pads) y = MaxPool <kernel_shape = [3, 3]> (p)", 13),
        ("p = Pad (x, pads) y = AveragePool <kernel_shape = [3, 3]> (p)", 13),
        ("p = Pad (x, one_each, lowest) y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)",
         13),
        ("p = Pad (x, pads) q = Pad (p, pads) y = Conv (q, w)", 13),
        ("p = Pad (x, pads) a = Conv (p, w) b = Relu (p) c = Conv (b, w) y = Add (a, c)", 13),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) p = Pad (t, last) "
         "u = Transpose <perm = [0, 3, 1, 2]> (p) y = Conv (u, w)", 13),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) u = Transpose <perm = [0, 3, 1, 2]> (t) "
         "y = Conv (u, w)", 13),
        ("y = Pad <mode = \"reflect\"> (x, pads)", 13),
        ("y = Pad <mode = \"edge\"> (x, pads)", 13),
        ("y = Pad <mode = \"wrap\"> (x, sides, , axes)", 19),
        ("y = Pad (x, pads, half)", 13),
        ("y = Pad (x, cuts, half)", 13),
        ("y = Pad (x, channels, half)", 13),
        ("p = Pad (x, channels) y = Conv (p, w2)", 13),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) p = Pad <mode = \"reflect\"> (t, last) "
         "y = Transpose <perm = [0, 3, 1, 2]> (p)", 13),
        ("a = Relu (x) y = Sum (x, a, x)", 13),
        ("a = Relu (x) y = Sum (a)", 8),
        ("y = Sum (x, k, k)", 13),
        ("y = Sum (k, k, x)", 13),
    ],
)  # fmt: skip
def test_what_is_read_computes_what_onnxruntime_does(body: str, opset: int) -> None:
    model = build(
        body,
        output=MAP,
        opset=opset,
        pads=PADS,
        last=LAST,
        one_each=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        sides=np.array([1, 2, 3, 1]),
        axes=np.array([-2, -1]),
        zero=np.float32(0),
        lowest=LOWEST,
        w=W,
        w2=np.concatenate((W, W[:, :3]), 1),
        k=np.float32(0.5),
        half=np.float32(-0.5),
        cuts=np.array([0, 0, -1, 2, 0, 0, 1, -2]),
        channels=np.array([0, 1, 0, 0, 0, 2, 0, 1]),
    )
    used = {name for node in model.graph.node for name in node.input}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in used:
            del model.graph.initializer[index]
    assert_agrees(model)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 3e38, -3e38])
@pytest.mark.parametrize(
    "body",
    [
        "p = Pad (c, pads, k) y = Neg (p)",
        "p = Pad (c, channels, k) y = Neg (p)",
        "p = Pad (c, cuts, k) y = Neg (p)",
        "t = Transpose <perm = [0, 2, 3, 1]> (c) p = Pad (t, last, k) "
        "u = Transpose <perm = [0, 3, 1, 2]> (p) y = Neg (u)",
    ],
    ids=["around", "channels", "cuts", "last"],
)
def test_any_number_is_what_is_padded_with(body: str, number: float) -> None:
    model = build(
        f"c = Conv (x, w) {body}", output=MAP, opset=13, pads=PADS, last=LAST, w=W,
        channels=np.array([0, 1, 0, 1, 0, 2, 0, 1]), cuts=np.array([0, 0, -1, 1, 0, 0, 1, 0]),
        k=np.float32(number),
    )  # fmt: skip
    x = images((4, 7, 6))
    found = strzoo.compile(model, cache=False, islands="missing")(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_kernels_pad_whatever_the_map_holds() -> None:
    body = """a = Pad (x, pads) b = Pad <mode = "reflect"> (x, pads) c = Pad (x, pads, k)
        d = Conv (a, w) e = Conv (b, w) f = Conv (c, w) g = Add (d, e) y = Add (f, g)"""
    model = build(body, output=MAP, opset=13, pads=PADS, k=np.float32(0.5), w=W)
    x = images((4, 7, 6))
    x[1, 1, 3, 3], x[2, 0, 0, 0] = np.inf, np.nan
    found = strzoo.compile(model, cache=False, islands="none")(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


def test_a_padding_before_a_convolution_costs_nothing() -> None:
    model = build("p = Pad (x, pads) y = Conv (p, w)", output=MAP, opset=13, pads=PADS, w=W)
    (layer,) = simplify(read_graph(model)).layers
    assert isinstance(layer, Convolution)
    assert layer.window.pads == (1, 2, 3, 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y = Pad <mode = \"reflect\"> (x, far)", "Pad at y (mode 'reflect' by 7 on 7)"),
        ("y = Pad <mode = \"edge\"> (x, channels)", "Pad at y (mode 'edge' of channels"),
        ("y = Pad (x, others)", "Pad at y (of images)"),
        ("y = Pad (x, minus)", "Pad at y (that cuts off channels)"),
        ("p = Pad (x, pads, lowest) y = Relu (p)", "Pad at p (not with 0, before"),
        ("t = Transpose <perm = [1, 0, 2, 3]> (x) y = Relu (t)", "Transpose at t"),
    ],
)  # fmt: skip
def test_other_paddings_and_transposes_are_refused(body: str, said: str) -> None:
    constants = {
        "pads": PADS,
        "channels": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        "minus": np.array([0, -1, 0, 0, 0, 0, 0, 0]),
        "far": np.array([0, 0, 7, 0, 0, 0, 0, 0]),
        "others": np.array([1, 0, 0, 0, 0, 0, 0, 0]),
        "lowest": LOWEST,
    }
    model = build(body, output=MAP, opset=13)
    for name, value in constants.items():
        from onnx import numpy_helper

        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(UsageError) as caught:
        read_graph(model)
    assert said in str(caught.value)


def test_images_with_the_channels_last_are_turned() -> None:
    body = "t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (t, w)"
    model = build(body, output=MAP, image="float[N, 8, 7, 3] x", w=W[:, :3])
    assert_agrees(model)
    compiled = strzoo.compile(model, cache=False, islands="none")
    assert compiled.input_shape == (8, 7, 3)
    x = images((8, 7, 3))
    np.testing.assert_allclose(compiled(x), run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)
