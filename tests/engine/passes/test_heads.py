import numpy as np

from strzoo.engine.ir.graph import Bounds, Clamp, Flatten, GlobalAveragePool, Linear, Window
from strzoo.engine.passes.heads import flatten_heads
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names

POOL = GlobalAveragePool("p", ("x",), "p")


def test_a_1x1_convolution_on_one_pixel_becomes_linear_and_the_pool_flat() -> None:
    fc = conv("fc", "p", outputs=3)
    graph = chain(POOL, fc, Flatten("f", ("fc",), "f"))
    found = flatten_heads(graph)
    pool, linear = found.layers
    assert pool == GlobalAveragePool("p", ("x",), pool.output, flat=True)
    assert isinstance(linear, Linear)
    np.testing.assert_array_equal(linear.weight, fc.weight.reshape(3, 2))
    assert (linear.name, found.shapes) == ("fc", {"x": (2, 4, 5), pool.output: (2,), "f": (3,)})
    assert_same_outputs(graph, found)


def test_flatten_moves_up_through_bounds_and_further_convolutions() -> None:
    layers = [
        POOL,
        conv("a", "p", outputs=5),
        Clamp("r", ("a",), "r", Bounds(0.0)),
        conv("b", "r", inputs=5, outputs=4, bounds=Bounds(0.0)),
        Flatten("f", ("b",), "f"),
    ]
    found = flatten_heads(chain(*layers))
    assert [type(layer).__name__ for layer in found.layers] == [
        "GlobalAveragePool",
        "Linear",
        "Clamp",
        "Linear",
    ]
    assert_same_outputs(chain(*layers), found)


def test_a_flatten_of_a_real_map_stays_before_its_linear_layer() -> None:
    weight = np.ones((3, 40), np.float32)
    graph = chain(
        conv("a"),
        Flatten("f", ("a",), "f"),
        Linear("l", ("f",), "l", weight, weight[:, 0]),
    )
    assert flatten_heads(graph).layers == graph.layers


def test_a_map_of_one_pixel_that_is_needed_as_a_map_stays_one() -> None:
    graph = chain(POOL, conv("a", "p"), Flatten("f", ("a",), "f"), output="a")
    assert names(flatten_heads(graph)) == ["p", "a", "f"]


def test_convolutions_of_more_than_a_pixel_stay() -> None:
    grouped = conv("a", "p", inputs=1, groups=2)
    padded = conv("a", "p", window=Window((1, 1), pads=(1, 1, 1, 1)))
    for layer in (grouped, padded):
        graph = chain(POOL, layer, Flatten("f", ("a",), "f"))
        assert flatten_heads(graph).layers == graph.layers
