import pytest

from strzoo.engine.ir.graph import AveragePool, GlobalAveragePool, Window
from strzoo.engine.passes.pools import globalise_pools
from tests.helpers.engine.building import assert_same_outputs, chain


def test_a_pool_over_the_whole_map_becomes_global() -> None:
    graph = chain(AveragePool("p", ("x",), "p", Window((4, 5), (2, 2)), count_padding=True))
    found = globalise_pools(graph)
    assert found.layers == (GlobalAveragePool("p", ("x",), "p"),)
    assert_same_outputs(graph, found)


@pytest.mark.parametrize(
    "window", [Window((4, 4)), Window((3, 5)), Window((4, 5), pads=(0, 0, 1, 0))]
)
def test_any_other_pool_stays(window: Window) -> None:
    graph = chain(AveragePool("p", ("x",), "p", window))
    assert globalise_pools(graph).layers == graph.layers
