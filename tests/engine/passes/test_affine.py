import dataclasses

import numpy as np
import pytest

from strzoo.engine.ir.graph import Affine, Bounds, Flatten, Linear, Window
from strzoo.engine.passes.affine import fold_affine
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names


def norm(name: str, source: str, bounds: Bounds | None = None, channels: int = 2) -> Affine:
    random = np.random.default_rng(5)
    scale, shift = random.standard_normal((2, channels)).astype(np.float32)
    return Affine(name, (source,), name, scale, shift, bounds)


def test_weights_and_bias_are_scaled_row_by_row() -> None:
    scale, shift = np.array([2, -1], np.float32), np.array([10, 20], np.float32)
    before = conv("a")
    graph = chain(before, Affine("n", ("a",), "n", scale, shift))
    (found,) = fold_affine(graph).layers
    assert found.weight[:, :, 0, 0].tolist() == [  # type: ignore[attr-defined]
        [2 * v for v in before.weight[0].ravel().tolist()],
        [-v for v in before.weight[1].ravel().tolist()],
    ]
    expected = shift + scale * before.bias  # in fp32, where numpy 1 makes fp64 of single numbers
    assert found.bias.tolist() == expected.tolist()  # type: ignore[attr-defined]
    assert_same_outputs(graph, fold_affine(graph))


def test_it_goes_into_padded_grouped_convolutions_and_linear_layers_and_other_affines() -> None:
    padded = conv("a", inputs=1, groups=2, window=Window((1, 1), pads=(1, 2, 0, 1)))
    weight = np.ones((3, 6 * 8 - 8), np.float32)
    graph = chain(
        padded,
        norm("n", "a"),
        norm("m", "n", Bounds(0.0)),
        norm("alone", "m"),
        norm("alone2", "alone"),
        Flatten("f", ("alone2",), "f"),
        Linear("l", ("f",), "l", np.full((3, 80), 0.1, np.float32), weight[:, 0]),
        norm("last", "l", channels=3),
    )
    found = fold_affine(graph)
    assert names(found) == ["a", "alone", "f", "l"]
    assert_same_outputs(graph, found)


def test_what_something_else_reads_unscaled_stays() -> None:
    both = chain(conv("a"), norm("n", "a"), conv("b", "a"), norm("m", "b"), output="n")
    assert names(fold_affine(both)) == ["a", "n", "b"]
    output = chain(conv("a"), norm("n", "a"), output="a")
    assert names(fold_affine(output)) == ["a", "n"]


def test_a_bounded_result_is_not_scaled_before_its_bounds() -> None:
    graph = chain(conv("a", bounds=Bounds(0.0)), norm("n", "a"))
    assert names(fold_affine(graph)) == ["a", "n"]


@pytest.mark.parametrize("scale", [1e30, np.inf, np.nan])
@pytest.mark.parametrize("before", ["convolution", "affine"])
def test_what_would_not_be_finite_stays_apart(before: str, scale: float) -> None:
    large, zero = np.full(2, 1e30, np.float32), np.zeros(2, np.float32)
    first = conv("a") if before == "convolution" else Affine("a", ("x",), "a", large, zero)
    if before == "convolution":
        first = dataclasses.replace(first, weight=first.weight * large[0])
    graph = chain(first, Affine("n", ("a",), "n", np.full(2, scale, np.float32), zero))
    assert names(fold_affine(graph)) == ["a", "n"]
