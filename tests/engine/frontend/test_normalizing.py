"""Normalizations, in every form that exporters write, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import strzoo
from strzoo.engine.frontend.read import read_graph
from tests.helpers.engine.models import assert_agrees, build, images, run_onnxruntime

MAP = "float[N, A, B, C] y"
RANDOM = np.random.default_rng(7)


def numbers(count: int) -> np.ndarray:
    return RANDOM.standard_normal(count).astype(np.float32)


@pytest.mark.parametrize(
    ("body", "opset", "length"),
    [
        ("y = InstanceNormalization (x, s, b)", 6, 4),
        ("y = InstanceNormalization <epsilon = 0.5> (x, s, b)", 22, 4),
        ("y = GroupNormalization <num_groups = 2> (x, s, b)", 18, 2),
        ("y = GroupNormalization <num_groups = 2, epsilon = 0.1> (x, s, b)", 21, 4),
        ("y = GroupNormalization <num_groups = 1> (x, s, b)", 21, 4),
        ("y = GroupNormalization <num_groups = 4> (x, s, b)", 21, 4),
        ("r = Reshape (x, two) i = InstanceNormalization (r, s, b) y = Reshape (i, four)", 18, 2),
        # Three channels do not make up groups of the map's four.
        ("r = Reshape (x, three) i = InstanceNormalization (r, s, b) q = Reshape (i, four) "
         "y = AveragePool <kernel_shape = [1, 2]> (q)", 18, 3),
        ("p = GlobalAveragePool (x) y = GroupNormalization <num_groups = 2> (p, s, b)", 21, 4),
    ],
)  # fmt: skip
def test_what_is_read_computes_what_onnxruntime_does(body: str, opset: int, length: int) -> None:
    shapes = {"two": [0, 2, -1], "three": [0, 3, -1], "four": [-1, 4, 7, 6]}
    given: dict[str, Any] = {name: np.array(v) for name, v in shapes.items() if name in body}
    assert_agrees(
        build(body, output=MAP, opset=opset, s=numbers(length), b=numbers(length), **given)
    )


@pytest.mark.parametrize(
    "body",
    [
        "f = Flatten (x) y = LayerNormalization (f, one)",
        "f = Flatten (x) y = LayerNormalization (f, one, one)",
        "f = Flatten (x) y = LayerNormalization (f, number, all)",
        "f = Flatten (x) y = LayerNormalization (f, all, one)",
        "g = GroupNormalization <num_groups = 2> (x, one, number) y = Flatten (g)",
    ],
)
@pytest.mark.parametrize("opset", [18, 21])
def test_a_single_number_scales_or_shifts_all_channels(body: str, opset: int) -> None:
    weights: dict[str, Any] = {"one": numbers(1), "number": np.float32(0.7), "all": numbers(168)}
    assert_agrees(build(body, opset=opset, **weights))


def test_the_kernels_normalize_each_image() -> None:
    body = """g = GroupNormalization <num_groups = 2> (x, s, b) i = InstanceNormalization (g, t, b)
        r = Relu (i) y = Add (g, r)"""
    weights: dict[str, Any] = {name: numbers(4) for name in "stb"}
    model = build(body, output=MAP, opset=21, **weights)
    x = images((4, 7, 6), 3) * 3 + 1
    found = strzoo.compile(model, cache=False, islands="none", lanes=2)(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


def test_a_nan_spoils_its_group_and_no_other_image() -> None:
    body = "y = InstanceNormalization (x, s, b)"
    model = build(body, output=MAP, s=numbers(4), b=numbers(4))
    x = images((4, 7, 6), 3)
    x[1, 2, 3, 3], x[2, 0, 0, 0] = np.nan, np.inf
    found = strzoo.compile(model, cache=False, islands="none")(x)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(run_onnxruntime(model, x)))
    assert len(read_graph(model).layers) == 8


@pytest.mark.parametrize(
    "node",
    [
        "BatchNormalization (t, s, b, s, v)",
        "GroupNormalization <num_groups = 2> (t, s, b)",
        "InstanceNormalization (t, s, b)",
        "PRelu (t, slopes)",
    ],
)
@pytest.mark.parametrize(
    ("shape", "before"),
    [((4, 4, 6), "t = Transpose <perm = [0, 2, 3, 1]> (x)"), ((4, 6), "t = MatMul (x, w)")],
    ids=["map", "tokens"],
)
def test_channels_that_are_last_are_not_taken_for_another_axis_of_their_length(
    node: str, shape: tuple[int, ...], before: str
) -> None:
    weights: dict[str, Any] = {
        "s": numbers(4),
        "b": numbers(4),
        "v": np.abs(numbers(4)) + 0.5,
        "w": numbers(24).reshape(6, 4),
        "slopes": numbers(4).reshape(4, *[1] * (len(shape) - 1)),
    }
    model = build(
        f"{before} y = {node}",
        image=f"float[N, {', '.join(map(str, shape))}] x",
        output=f"float[N, {', '.join('ABC'[: len(shape)])}] y",
        opset=21,
        **weights,
    )
    x = images(shape)
    found = strzoo.compile(model, cache=False, islands="missing")(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)
