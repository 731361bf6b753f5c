"""Activations, gates, and what takes channels or pixels out of a map, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import strzoo
from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import (
    Affine,
    Combine,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    Normalize,
)
from strzoo.engine.passes import simplify
from strzoo.errors import UsageError
from tests.helpers.engine.models import assert_agrees, build, images, run_onnxruntime
from tests.helpers.engine.reference import run_graph

MAP = "float[N, A, B, C] y"
RANDOM = np.random.default_rng(2)
ONE: dict[str, Any] = {"w": RANDOM.standard_normal((4, 4, 1, 1)).astype(np.float32)}


def kinds(body: str, **weights: Any) -> list[type[Layer]]:
    graph = simplify(read_graph(build(body, output=MAP, **weights)))
    return [type(layer) for layer in graph.layers]


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        *((f"y = {name} (x)", 18) for name in (
            "Abs", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg",
            "Sigmoid", "Softplus", "Softsign", "Tanh",
        )),
        *((f"y = {call} (x)", 18) for call in (
            "Elu <alpha = 0.3>", "HardSigmoid <alpha = 0.1, beta = 0.7>", "LeakyRelu <alpha = 1.5>",
        )),
        ("a = Abs (x) y = Sqrt (a)", 18),
        ("y = Gelu (x)", 20),
        ("y = Gelu <approximate = \"tanh\"> (x)", 20),
        ("a = Abs (x) y = Log (a)", 18),
        ("a = Exp (x) y = Reciprocal (a)", 18),
        ("a = Exp (x) y = Div (half, a)", 18),
        ("t = Transpose <perm = [0, 2, 3, 1]> (x) p = Pow (t, two) y = Transpose <perm = [0, 3, 1, "
         "2]> (p)", 18),
        ("y = PRelu (x, slope)", 18),
        ("y = PRelu (x, half)", 18),
        ("y = Max (x, half)", 18),
        ("y = Min (half, x)", 18),
        ("y = Pow (x, two)", 18),
        ("a = Abs (x) y = Pow (a, half)", 18),
        ("s = Sigmoid (x) y = Sub (x, s)", 18),
        ("s = Exp (x) y = Div (x, s)", 18),
        ("p = GlobalAveragePool (x) s = Sigmoid (p) y = Mul (s, x)", 18),
        ("p = GlobalAveragePool (x) y = Sub (x, p)", 18),
        ("y = Slice (x, one, three, one)", 18),
        ("y = Slice (x, one, five, axes, steps)", 18),
        ("a, b = Split <axis = 1> (x, parts) y = Concat <axis = 1> (b, a)", 17),
        ("a, b = Split <axis = 1, num_outputs = 2> (x) y = Sub (a, b)", 18),
        ("y = Gather <axis = 3> (x, five)", 18),
        ("y = Resize <mode = \"nearest\"> (x, , scales)", 18),
        ("y = Resize <mode = \"nearest\", nearest_mode = \"floor\", "
         "coordinate_transformation_mode = \"asymmetric\"> (x, , scales)", 13),
        ("y = Resize <mode = \"nearest\"> (x, , , sizes)", 18),
        ("y = Upsample <mode = \"nearest\"> (x, scales)", 9),
        ("p = GlobalAveragePool (x) y = Resize <mode = \"nearest\"> (p, , , sizes)", 18),
    ],
)  # fmt: skip
def test_what_is_read_computes_what_onnxruntime_does(body: str, opset: int) -> None:
    numbers = np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1) / 7
    weights = {
        "slope": numbers,
        "half": np.float32(0.5),
        "two": np.float32(2),
        "one": np.array([1]),
        "three": np.array([3]),
        "five": np.array([5, 0, 0]) if "Gather" in body else np.array([5]),
        "axes": np.array([2]),
        "steps": np.array([2]),
        "parts": np.array([1, 3]),
        "scales": np.array([1, 1, 2, 1.5], np.float32),
        "sizes": np.array([1, 4, 9, 4]),
    }
    given = {name: array for name, array in weights.items() if name in body}
    batch = 1 if "sizes" in body else 3
    assert_agrees(build(body, output=MAP, opset=opset, **given), batch=batch, tolerance=1e-5)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 24, reason="this onnx lacks Swish")
@pytest.mark.parametrize("alpha", [1.0, 1.702, -0.5, 0.0])
@pytest.mark.parametrize("last", [False, True])
def test_swish_is_a_gate_of_alpha_times_x(alpha: float, last: bool) -> None:
    body = f"y = Swish <alpha = {alpha}> (x)"
    if last:
        body = f"""t = Transpose <perm = [0, 2, 3, 1]> (x) s = Swish <alpha = {alpha}> (t)
            y = Transpose <perm = [0, 3, 1, 2]> (s)"""
    x = images((4, 7, 6))
    found = run_graph(simplify(read_graph(build(body, output=MAP, opset=24))), x)
    np.testing.assert_allclose(found, x / (1 + np.exp(-alpha * x)), rtol=1e-5, atol=1e-6)


EXPONENTS = (2, 3, 4, 0.5, -1, -0.5, -2, 1, 1.7, -2.3, 5, -5, 6, 12, 0.3)


@pytest.mark.slow
def test_powers_and_logarithms_of_any_number() -> None:
    """Special values included: what a float can be is what onnxruntime makes of it."""
    names = [f"p{i}" for i in range(len(EXPONENTS))]
    body = " ".join(f"{name} = Pow (x, e{name})" for name in names)
    unary = ("Log", "Reciprocal", "Softplus", "Softsign", "Mish")
    body += " ".join(f" u{i} = {operator} (x)" for i, operator in enumerate(unary))
    joined = ", ".join([*names, *(f"u{i}" for i in range(len(unary)))])
    exponents: dict[str, Any] = {
        f"e{name}": np.float32(exponent) for name, exponent in zip(names, EXPONENTS, strict=True)
    }
    model = build(f"{body} y = Concat <axis = 1> ({joined})", output=MAP, **exponents)
    x = images((4, 7, 6), 2) * 3
    special = [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40, 1e-30, -1e-30, 1e4, -1e4, 0.5**0.5]
    x.reshape(-1)[: len(special)] = special
    found = strzoo.compile(model, cache=False, islands="none")(x)
    expected = run_onnxruntime(model, x)
    for exponent, of_zero in ((0.5, 0.0), (-0.5, -np.inf)):  # they go by square roots
        expected[0, 4 * EXPONENTS.index(exponent)].reshape(-1)[[1, 5]] = of_zero, np.nan
    expected[0, -4].reshape(-1)[5] = -np.inf  # mish, whose limit is neither this nor NaN
    # Near the largest number the engine may give infinity.
    for values in (found, expected):
        far = np.abs(values) > 1e37
        values[far] = np.copysign(np.inf, values[far])
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-6)


def test_gates_become_functions_of_the_layer_before() -> None:
    for activation in (
        "s = Sigmoid (c) y = Mul (c, s)",
        "s = HardSigmoid <alpha = 0.1666667> (c) y = Mul (s, c)",
        "d = Div (c, root) f = Erf (d) g = Add (f, one) m = Mul (c, g) y = Mul (m, half)",
    ):
        constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
        known: dict[str, Any] = {
            name: array for name, array in constants.items() if name in activation
        }
        body = f"c = Conv (x, w) {activation}"
        assert kinds(body, **ONE, **known) == [Convolution]
        assert_agrees(build(body, output=MAP, **ONE, **known))


def test_squeeze_and_excitation_is_five_layers() -> None:
    body = """c = Conv (x, w) p = GlobalAveragePool (c) q = Conv (p, w) r = Relu (q) u = Conv (r, w)
        s = Sigmoid (u) y = Mul (c, s)"""
    expected = [Convolution, GlobalAveragePool, Convolution, Convolution, Combine]
    assert kinds(body, **ONE) == expected
    assert_agrees(build(body, output=MAP, **ONE))


def test_channels_that_go_last_and_back_move_nothing() -> None:
    body = """t = Transpose <perm = [0, 2, 3, 1]> (x) n = LayerNormalization (t, g, b)
        m = MatMul (n, up) a = Add (m, c) f = Gelu (a) d = MatMul (f, down) e = Mul (g, d)
        s = Add (e, t) y = Transpose <perm = [0, 3, 1, 2]> (s)"""
    weights: dict[str, Any] = {
        "g": RANDOM.standard_normal(4).astype(np.float32),
        "b": RANDOM.standard_normal(4).astype(np.float32),
        "c": RANDOM.standard_normal(7).astype(np.float32),
        "up": RANDOM.standard_normal((4, 7)).astype(np.float32),
        "down": RANDOM.standard_normal((7, 4)).astype(np.float32),
    }
    model = build(body, output=MAP, opset=20, **weights)
    found = [type(layer) for layer in simplify(read_graph(model)).layers]
    assert found == [Normalize, Convolution, Convolution, Combine]
    assert_agrees(model)
    vector = build("f = Flatten (x) y = LayerNormalization (f, g)", g=np.ones(168, np.float32))
    assert_agrees(vector)
    pixel = """p = GlobalAveragePool (x) t = Transpose <perm = [0, 2, 3, 1]> (p)
        n = LayerNormalization (t, g) u = Transpose <perm = [0, 3, 1, 2]> (n) y = Mul (x, u)"""
    assert_agrees(build(pixel, output=MAP, g=np.ones(4, np.float32)))


def test_what_another_layer_reads_is_kept_beside_the_gate() -> None:
    body = "s = Sigmoid (x) m = Mul (x, s) a = Add (m, s) y = Mul (a, half)"
    assert Affine in kinds(body, half=np.float32(0.5))
    assert_agrees(build(body, output=MAP, half=np.float32(0.5)))
    assert Linear not in kinds(body, half=np.float32(0.5))


TOKENS: dict[str, Any] = {
    "g": RANDOM.standard_normal(4).astype(np.float32),
    "b": RANDOM.standard_normal(4).astype(np.float32),
    "qkv": RANDOM.standard_normal((4, 12)).astype(np.float32),
    "c": RANDOM.standard_normal(12).astype(np.float32),
    "out": RANDOM.standard_normal((4, 4)).astype(np.float32),
    "flat": np.array([0, 4, 42]),
    "heads": np.array([0, 42, 3, 2, 2]),
    "joined": np.array([0, 42, 4]),
    "map": np.array([0, 4, 7, 6]),
    "first": np.array([0]),
    "one": np.array(1),
    "two": np.array([2]),
    "second": np.array([1]),
    "among": np.array([-1, 42, 2]),
    "apart": np.array([-1, 2, 2, 42]),
}
LAST = "r = Reshape (x, flat) t = Transpose <perm = [0, 2, 1]> (r) n = LayerNormalization (t, g, b)"
BACK = """u = Transpose <perm = [0, 2, 1]> (e) image = Reshape (u, map)
    y = AveragePool <kernel_shape = [2, 2]> (image)"""


@pytest.mark.parametrize(
    "body",
    [
        # A residual of what was normalized, as tokens, and of what was never turned.
        f"{LAST} m = MatMul (n, out) f = Gelu (m) e = Add (t, f) {BACK}",
        f"""{LAST} m = MatMul (n, out) s = Transpose <perm = [0, 2, 3, 1]> (x)
        k = Reshape (s, joined) e = Sub (k, m) {BACK}""",
        # Queries, keys and values that are split off with the images on the second axis.
        f"""{LAST} m = MatMul (n, qkv) a = Add (c, m) h = Reshape (a, heads)
        p = Transpose <perm = [2, 0, 3, 1, 4]> (h) q, k, v = Split <axis = 0, num_outputs = 3> (p)
        q1 = Squeeze (q, first) k1 = Squeeze (k, first) v1 = Gather <axis = 0> (p, one)
        s = Mul (q1, k1) w = Add (s, v1) z = Transpose <perm = [0, 2, 1, 3]> (w)
        e = Reshape (z, joined) {BACK}""",
        # As torch's exporter writes them: sliced, and the keys turned with the heads among images.
        f"""{LAST} m = MatMul (n, qkv) h = Reshape (m, heads)
        p = Transpose <perm = [2, 0, 3, 1, 4]> (h) q = Slice (p, first, second, first)
        k = Slice (p, second, two, first) q1 = Squeeze (q, first) k1 = Squeeze (k, first)
        i = Reshape (k1, among) j = Transpose <perm = [0, 2, 1]> (i) l = Reshape (j, apart)
        o = Transpose <perm = [0, 1, 3, 2]> (q1) w = Sub (l, o)
        z = Transpose <perm = [0, 3, 1, 2]> (w) e = Reshape (z, joined) {BACK}""",
        # Their images come back to the first axis on another way.
        f"""{LAST} m = MatMul (n, qkv) h = Reshape (m, heads)
        p = Transpose <perm = [2, 1, 0, 3, 4]> (h) k = Gather <axis = 0> (p, one)
        z = Transpose <perm = [1, 0, 2, 3]> (k) e = Reshape (z, joined) {BACK}""",
    ],
)
def test_tokens_of_channels_are_pixels_of_a_map(body: str) -> None:
    model = build(body, output=MAP, opset=20, **TOKENS)
    assert Convolution in [type(layer) for layer in simplify(read_graph(model)).layers]
    assert_agrees(model)


@pytest.mark.parametrize(
    "body",
    [
        "p = Transpose <perm = [1, 0, 2, 3]> (x) r = Relu (p)"
        " y = Transpose <perm = [1, 0, 2, 3]> (r)",
        "p = Transpose <perm = [1, 0, 2, 3]> (x) s, t = Split <axis = 1, num_outputs = 2> (p)"
        " y = Transpose <perm = [1, 0, 2, 3]> (s)",
        "p = Transpose <perm = [1, 0, 2, 3]> (x) s = Squeeze (p) y = Neg (s)",
        "p = Reshape (x, among) r = Relu (p) y = Reshape (r, back)",
        "p = Reshape (x, among) q = Transpose <perm = [1, 0, 2]> (p) y = Reshape (q, back)",
        "p = Reshape (x, among) s, t = Split <axis = 0, num_outputs = 2> (p) y = Reshape (s, back)",
    ],
)
def test_what_works_on_images_that_are_not_first_is_refused(body: str) -> None:
    with pytest.raises(UsageError):
        read_graph(
            build(body, output=MAP, among=np.array([-1, 21, 4]), back=np.array([0, 4, 7, 6]))
        )


VECTOR = "p = GlobalAveragePool (x) c = Flatten (p) "
TURNED = "c = Transpose <perm = [0, 2, 3, 1]> (x) "


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"])
@pytest.mark.parametrize(
    "value", [VECTOR, TURNED, "c = Identity (x) "], ids=["vector", "turned", "map"]
)
@pytest.mark.parametrize("first", [False, True])
def test_a_constant_of_more_axes_than_the_value_gives_the_result_more(
    operator: str, value: str, first: bool
) -> None:
    if first and operator in ("Pow", "PRelu"):
        pytest.skip("the engine has none whose base is a constant")
    rank = 2 if value is VECTOR else 4
    names = "k, c" if first else "c, k"
    for more in (0, 1, 2):
        output = f"float[{', '.join('ABCDEF'[: rank + more])}] y"
        constant = np.full((1,) * (rank + more), 1.5, np.float32)
        if operator == "PRelu" and more:
            continue  # which takes slopes of no more axes
        model = build(f"{value}y = {operator} ({names})", output=output, k=constant)
        x = np.abs(images((4, 7, 6), 2))
        expected = run_onnxruntime(model, x)
        found = strzoo.compile(model, 1, cache=False, islands="missing")(x)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
