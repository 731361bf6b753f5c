import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strzoo.engine.ir.graph import (
    Add,
    Affine,
    Bounds,
    Clamp,
    Convolution,
    Flatten,
    Linear,
    MaxPool,
    Window,
)
from strzoo.engine.passes.bounds import fuse_bounds, merge_bounds
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names

RELU, RELU6 = Bounds(0.0), Bounds(0.0, 6.0)
NUMBERS = st.floats(-10, 10)


def clamp(name: str, source: str, bounds: Bounds = RELU) -> Clamp:
    return Clamp(name, (source,), name, bounds)


def test_bounds_go_into_convolution_linear_add_and_affine() -> None:
    ones = np.ones(2, np.float32)
    graph = chain(
        conv("a"),
        clamp("ra", "a"),
        Affine("n", ("ra",), "n", -ones, ones),
        clamp("rn", "n", RELU6),
        Add("s", ("rn", "ra"), "s"),
        clamp("rs", "s", Bounds(0.5, 1)),
        Flatten("f", ("rs",), "f"),
        Linear("l", ("f",), "l", np.ones((1, 40), np.float32), ones[:1]),
        clamp("rl", "l"),
    )
    found = fuse_bounds(graph)
    assert names(found) == ["a", "n", "s", "f", "l"]
    bounds = [getattr(layer, "bounds", None) for layer in found.layers]
    assert bounds == [RELU, RELU6, Bounds(0.5, 1), None, RELU]
    assert_same_outputs(graph, found)


def test_a_value_that_is_also_read_without_bounds_keeps_none() -> None:
    graph = chain(conv("a"), clamp("r", "a"), Add("s", ("r", "a"), "s"))
    assert fuse_bounds(graph).layers == graph.layers


def test_bounds_of_a_pool_stay_a_layer() -> None:
    graph = chain(MaxPool("p", ("x",), "p", Window((2, 2))), clamp("r", "p"))
    assert fuse_bounds(graph).layers == graph.layers


@given(*[NUMBERS] * 4, NUMBERS)
def test_merged_bounds_are_the_two_one_after_the_other(
    low: float, high: float, then_low: float, then_high: float, x: float
) -> None:
    first, second = Bounds(low, high), Bounds(then_low, then_high)
    inside = min(max(x, low), high)
    merged = merge_bounds(first, second)
    expected = min(max(inside, then_low), then_high)
    assert min(max(x, merged.low), merged.high) == expected


@pytest.mark.parametrize("second", [RELU, RELU6])
def test_two_layers_of_bounds_become_one(second: Bounds) -> None:
    found = fuse_bounds(chain(conv("a"), clamp("r", "a", RELU6), clamp("q", "r", second)))
    (layer,) = found.layers
    assert isinstance(layer, Convolution)
    assert layer.bounds == RELU6
