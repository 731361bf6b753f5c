from strzoo.engine.passes.dead import drop_dead_layers
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names


def test_layers_that_lead_nowhere_are_dropped() -> None:
    graph = chain(conv("a"), conv("b", "a"), conv("c", "b"), conv("d", "a"), output="b")
    kept = drop_dead_layers(graph)
    assert names(kept) == ["a", "b"]
    assert set(kept.shapes) == {"x", "a", "b"}
    assert_same_outputs(graph, kept)
