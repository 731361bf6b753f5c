from strzoo.engine.ir.graph import Add, Bounds, Convolution, MaxPool, Window
from strzoo.engine.passes.residuals import fuse_residuals
from tests.helpers.engine.building import assert_same_outputs, chain, conv, names

RELU = Bounds(0.0)


def test_the_later_of_two_convolutions_takes_the_add_and_its_bounds() -> None:
    graph = chain(conv("a"), conv("b", "x"), Add("s", ("b", "a"), "s", RELU))
    found = fuse_residuals(graph)
    assert names(found) == ["a", "b"]
    last = found.layers[-1]
    assert isinstance(last, Convolution)
    assert (last.inputs, last.output, last.bounds) == (("x", "a"), "s", RELU)
    assert_same_outputs(graph, found)


def test_the_earlier_one_waits_for_a_later_value_that_is_no_convolution() -> None:
    pool = MaxPool("p", ("x",), "p", Window((1, 1)))
    graph = chain(conv("a"), pool, Add("s", ("a", "p"), "s"), conv("b", "s"))
    found = fuse_residuals(graph)
    assert names(found) == ["p", "a", "b"]
    assert found.layers[1].inputs == ("x", "p")
    assert_same_outputs(graph, found)


def test_a_bounded_convolution_is_added_to_not_added_into() -> None:
    graph = chain(conv("a"), conv("b", "a", bounds=RELU), Add("s", ("a", "b"), "s", RELU))
    found = fuse_residuals(graph)
    # `a` is read by `b` as well, so neither can take the Add
    assert found.layers == graph.layers


def test_the_input_of_a_block_is_added_to_its_last_convolution() -> None:
    graph = chain(
        conv("stem", bounds=RELU),
        conv("a", "stem", bounds=RELU),
        conv("b", "a"),
        Add("s", ("stem", "b"), "s", RELU),
        conv("c", "s"),
        Add("t", ("c", "s"), "t"),
    )
    found = fuse_residuals(graph)
    assert [layer.inputs for layer in found.layers] == [
        ("x",),
        ("stem",),
        ("a", "stem"),
        ("s", "s"),
    ]
    assert_same_outputs(graph, found)


def test_a_value_added_to_itself_and_a_sum_of_three_are_right() -> None:
    twice = chain(conv("a"), Add("s", ("a", "a"), "s"))
    assert fuse_residuals(twice).layers == twice.layers
    three = chain(
        conv("a"), conv("b"), conv("c"), Add("s", ("a", "b"), "s"), Add("t", ("s", "c"), "t")
    )
    found = fuse_residuals(three)
    assert len(found.layers) == 3
    assert_same_outputs(three, found)


def test_a_convolution_that_is_the_output_too_is_left_alone() -> None:
    graph = chain(conv("a"), conv("b"), Add("s", ("a", "b"), "s"), output="b")
    assert [layer.inputs for layer in fuse_residuals(graph).layers] == [("x",), ("x", "b")]
