"""What moves numbers and computes nothing, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import strzoo
from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import Convolution, Flatten, Layer, Linear, Rearrange
from strzoo.engine.passes import simplify
from strzoo.errors import UsageError
from tests.helpers.engine.models import assert_agrees, build, images, run_onnxruntime

MAP = "float[N, A, B, C] y"
RANDOM = np.random.default_rng(4)
CONSTANTS: dict[str, Any] = {
    "halves": np.array([0, 2, 2, 7, 6]),
    "back": np.array([0, 4, 7, 6]),
    "twos": np.array([-1, 1, 2, 2, 7, 6]),
    "deep": np.array([0, 8, 7, 3]),
    "flat": np.array([0, -1]),
    "w": RANDOM.standard_normal((5, 4, 1, 1)).astype(np.float32),
    "full": RANDOM.standard_normal((168, 9)).astype(np.float32),
    "scales": np.array([1, 1, 2, 1], np.float32),
    "pixel": np.array([0, -1, 1, 1]),
    "wide": np.array([1, 4, 7, 6]),
    "blocks": np.array([-1, 1, 14, 12]),
}


def make(body: str, output: str = MAP, opset: int = 18, **fields: Any) -> Any:
    words = body.replace(",", " ").replace("(", " ").replace(")", " ").split()
    used = {name: array for name, array in CONSTANTS.items() if name in words}
    return build(body, output=output, opset=opset, **used, **fields)


SHUFFLE = """h = Reshape (x, halves) t = Transpose <perm = [0, 2, 1, 3, 4]> (h)
    y = Reshape (t, back)"""


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        (SHUFFLE, 18),
        ("y = Transpose <perm = [0, 2, 1, 3]> (x)", 18),
        ("y = Transpose <perm = [0, 3, 1, 2]> (x)", 18),
        ("y = Transpose <perm = [0, 3, 2, 1]> (x)", 18),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) r = Relu (t) y = Transpose <perm = [0, 2, 1, 3]>"
         " (r)", 18),
        ("y = DepthToSpace <blocksize = 2> (x)", 9),
        ("y = DepthToSpace <blocksize = 2, mode = \"CRD\"> (x)", 13),
        ("d = DepthToSpace <blocksize = 2> (x) s = SpaceToDepth <blocksize = 2> (d) "
         "y = Relu (s)", 13),
        ("y = Transpose <perm = [0, 2, 3, 1]> (x)", 18),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) y = MaxPool <kernel_shape = [2, 2]> (t)", 18),
        ("c = Conv <pads = [0, 1, 1, 1]> (x, w) y = SpaceToDepth <blocksize = 2> (c)", 13),
        # Pixel shuffle as torch writes it.
        ("h = Reshape (x, twos) t = Transpose <perm = [0, 1, 4, 2, 5, 3]> (h) "
         "y = Reshape (t, blocks)", 18),
        # Pixels of two columns become channels.
        ("h = Reshape (x, deep) t = Transpose <perm = [0, 3, 1, 2]> (h) y = Relu (t)", 18),
        ("p = GlobalAveragePool (x) y = Expand (p, wide)", 18),
        ("f = Flatten (x) r = Reshape (f, deep) y = MaxPool <kernel_shape = [2, 2]> (r)", 18),
        ("p = GlobalAveragePool (x) d = DepthToSpace <blocksize = 2> (p) y = Resize "
         "<mode = \"nearest\"> (d, , scales)", 18),
    ],
)  # fmt: skip
def test_what_is_read_computes_what_onnxruntime_does(body: str, opset: int) -> None:
    assert_agrees(make(body, opset=opset))


@pytest.mark.slow
@pytest.mark.parametrize("output", [MAP, "float[N, M] y"])
def test_the_kernels_move_the_numbers(output: str) -> None:
    body = {
        MAP: """c = Conv <pads = [0, 1, 1, 1]> (x, w) s = SpaceToDepth <blocksize = 2> (c)
            d = DepthToSpace <blocksize = 2, mode = "CRD"> (s) t = Transpose <perm = [0, 3, 1, 2]>
            (d) y = Relu (t)""",
        "float[N, M] y": """t = Transpose <perm = [0, 2, 3, 1]> (x) f = Reshape (t, flat)
            m = MatMul (f, full) p = GlobalAveragePool (x) d = DepthToSpace <blocksize = 2> (p)
            u = Transpose <perm = [0, 3, 2, 1]> (d) g = Flatten (u) q = Reshape (g, pixel)
            c = Conv (q, w) e = Flatten (c) y = Concat <axis = 1> (m, g, e)""",
    }[output]
    model = make(body, output)
    x = images((4, 7, 6), 2)
    expected = run_onnxruntime(model, x)
    for lanes in (1, 2):
        found = strzoo.compile(model, cache=False, lanes=lanes, islands="none")(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def kinds(body: str, output: str = MAP) -> list[type[Layer]]:
    return [type(layer) for layer in simplify(read_graph(make(body, output))).layers]


def test_moves_between_reshapes_are_one_layer_or_none() -> None:
    assert kinds(SHUFFLE) == [Convolution]
    assert kinds("y = DepthToSpace <blocksize = 2> (x)") == [Rearrange]
    turned = "t = Transpose <perm = [0, 2, 3, 1]> (x) f = Reshape (t, flat) y = MatMul (f, full)"
    assert kinds(turned, "float[N, M] y") == [Flatten, Linear]
    twice = """t = Transpose <perm = [0, 2, 1, 3]> (x) u = Transpose <perm = [0, 3, 1, 2]> (t)
        v = Transpose <perm = [0, 3, 2, 1]> (u) z = Transpose <perm = [0, 1, 3, 2]> (v)
        y = Relu (z)"""
    assert len(kinds(twice)) <= 2


@pytest.mark.parametrize(
    "taken", ["z = Slice (c, one, two, one)", "z = Gather <axis = 1> (c, one)"]
)
def test_a_number_for_each_image_is_left_to_onnxruntime(taken: str) -> None:
    body = f"p = GlobalAveragePool (x) c = Flatten (p) {taken} s = Squeeze (z, one) y = Mul (s, s)"
    numbers: dict[str, Any] = {"one": np.array([1])}
    if "two" in body:
        numbers["two"] = np.array([2])
    model = build(body, output="float[N] y", **numbers)
    x = images((4, 7, 6), 3)
    for islands in ("missing", "auto"):
        found = strzoo.compile(model, 1, cache=False, islands=islands)(x)
        np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-5)
    with pytest.raises(UsageError, match="of a single number"):
        strzoo.compile(model, 1, cache=False, islands="none")
