import numpy as np

from strzoo.engine.ir.graph import Bounds, Concat, Convolution, MaxPool, Window
from strzoo.engine.passes.branches import merge_branches
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names


def test_convolutions_of_one_map_that_are_joined_become_one() -> None:
    parts = [conv("a", outputs=1), conv("b", outputs=3), conv("c")]
    graph = chain(*parts, Concat("j", ("b", "a", "c"), "j"))
    (found,) = merge_branches(graph).layers
    assert isinstance(found, Convolution)
    expected = [parts[1].weight, parts[0].weight, parts[2].weight]
    np.testing.assert_array_equal(found.weight, np.concatenate(expected))
    assert_same_outputs(graph, merge_branches(graph))


def test_branches_that_differ_stay() -> None:
    wide = MaxPool("p", ("x",), "b", Window((1, 1)))
    for other in (
        wide,
        conv("b", bounds=Bounds(0.0)),
        conv("b", "a"),
        conv("b", inputs=1, groups=2),
        conv("b", window=Window((1, 1), dilations=(2, 2))),
    ):
        graph = chain(conv("a"), other, Concat("j", ("a", "b"), "j"))
        assert merge_branches(graph).layers == graph.layers


def test_a_branch_that_is_read_elsewhere_or_twice_stays() -> None:
    graph = chain(conv("a"), conv("b"), Concat("j", ("a", "b"), "j"), output="a")
    assert names(merge_branches(graph)) == ["a", "b", "j"]
    twice = chain(conv("a"), Concat("j", ("a", "a"), "j"))
    assert merge_branches(twice).layers == twice.layers
