import numpy as np
import pytest

from strzoo.engine.ir.graph import (
    Affine,
    AveragePool,
    Bounds,
    Clamp,
    Concat,
    Flatten,
    GlobalAveragePool,
    Layer,
    MaxPool,
    Pick,
    Window,
)
from strzoo.engine.passes.noops import drop_noops
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names

ONE, ZERO = np.ones(2, np.float32), np.zeros(2, np.float32)


@pytest.mark.parametrize(
    "layer",
    [
        Clamp("n", ("a",), "n", Bounds()),
        Affine("n", ("a",), "n", ONE, ZERO),
        MaxPool("n", ("a",), "n", Window((1, 1))),
        AveragePool("n", ("a",), "n", Window((1, 1)), count_padding=True),
        Concat("n", ("a",), "n"),
        Pick("n", ("a",), "n", np.arange(4), np.arange(5)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_changes_nothing_is_dropped(layer: Layer) -> None:
    for graph in (chain(conv("a"), layer, conv("b", "n")), chain(conv("a"), layer)):
        kept = drop_noops(graph)
        assert "n" not in names(kept)
        assert_same_outputs(graph, kept)


@pytest.mark.parametrize(
    "layer",
    [
        Clamp("n", ("a",), "n", Bounds(0.0)),
        Affine("n", ("a",), "n", ONE, ONE),
        Affine("n", ("a",), "n", ONE, ZERO, Bounds(0.0)),
        MaxPool("n", ("a",), "n", Window((1, 1), strides=(2, 2))),
        AveragePool("n", ("a",), "n", Window((1, 1), pads=(0, 0, 1, 1)), count_padding=True),
        GlobalAveragePool("n", ("a",), "n"),
        Flatten("n", ("a",), "n"),
        Concat("n", ("a", "a"), "n"),
        Pick("n", ("a",), "n", np.arange(4), np.arange(5)[::-1]),
        Pick("n", ("a",), "n", np.arange(3), np.arange(5)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_changes_something_stays(layer: Layer) -> None:
    assert names(drop_noops(chain(conv("a"), layer))) == ["a", "n"]


def test_several_in_a_row_are_dropped_together() -> None:
    free = [Clamp(f"n{i}", ("a" if i == 0 else f"n{i - 1}",), f"n{i}", Bounds()) for i in range(3)]
    kept = drop_noops(chain(conv("a"), *free, conv("b", "n2")))
    assert names(kept) == ["a", "b"]


def test_a_network_of_nothing_else_keeps_a_layer() -> None:
    free = [Clamp("n", ("x",), "n", Bounds()), Clamp("m", ("n",), "m", Bounds())]
    assert len(drop_noops(chain(*free)).layers) == 1
