"""Scales and weights in fixed point: by hand, and on images."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.hardware import host_hardware
from strzoo.engine.ir.fixed import (
    Dequantize,
    FixedConvolution,
    Quantize,
    count_parts,
    split_weights,
)
from strzoo.engine.ir.graph import Bounds, Convolution, Graph, Shape, Window
from strzoo.engine.layout.taps import direct_taps
from strzoo.engine.lowering.weights import find_nonzeros, sparse_table
from strzoo.engine.quantization import observation
from strzoo.engine.quantization.emulation import Probe, quantize_convolution
from strzoo.engine.quantization.fixing import fix
from strzoo.engine.quantization.observation import Observation, Sample, observe
from strzoo.engine.quantization.running_sums import RunningSums
from strzoo.engine.quantization.scales import HEADROOM, ROOM, Scales
from tests.helpers.engine.reference import run_graph

RELU = Bounds(0.0)


def convolution(
    name: str, weight: list[list[float]], *inputs: str, bias: float = 0.0
) -> Convolution:
    array = np.array(weight, np.float32)[:, :, None, None]
    biases = np.full(len(array), bias, np.float32)
    return Convolution(name, inputs, name, array, biases, Window((1, 1)), bounds=RELU)


def test_a_weight_is_in_units_of_2_to_the_minus_15_of_output_by_input() -> None:
    layer = convolution("y", [[0.5, -0.25]], "x", bias=3.0)
    fixed = quantize_convolution(layer, "y", np.array([0.001, 0.004]), np.array([0.01]))
    # 0.5 * 0.001 / 0.01 * 32768 = 1638.4 and -0.25 * 0.004 / 0.01 * 32768 = -3276.8.
    assert fixed.weight.reshape(-1).tolist() == [1638, -3277]
    assert fixed.bias.tolist() == [300]
    assert fixed.limits is None


def test_clamps_are_in_units_of_each_channel() -> None:
    layer = Convolution(
        "y", ("x",), "y", np.ones((2, 1, 1, 1), np.float32), np.zeros(2, np.float32),
        Window((1, 1)), bounds=Bounds(-1.0, 6.0),
    )  # fmt: skip
    fixed = quantize_convolution(layer, "y", np.array([1e-4]), np.array([0.001, 1e-4]))
    assert fixed.limits is not None
    assert fixed.limits.tolist() == [[-1000, 6000], [-10000, 32767]]


def seen_of(graph: Graph, **largest: list[float]) -> Observation:
    found = Observation({name: np.array(each, np.float32) for name, each in largest.items()})
    for layer in graph.layers:
        assert isinstance(layer, Convolution)
        inputs = np.ones((layer.weight.shape[1], 1, 4), np.float32)
        residual = np.ones((len(layer.weight), 4), np.float32) if layer.inputs[1:] else None
        found.samples[layer.name] = Sample(inputs, residual)
    return found


def test_maps_that_are_added_have_one_scale_for_each_channel() -> None:
    shapes: dict[str, Shape] = dict.fromkeys(("x", "a", "b", "c"), (2, 4, 4))
    eye = [[0.1, 0.0], [0.0, 0.1]]
    layers = (
        convolution("a", eye, "x"),
        convolution("b", eye, "a"),
        convolution("c", eye, "b", "a"),
    )
    graph = Graph("x", "c", shapes, layers, "a test")
    seen = seen_of(graph, x=[1, 1], a=[2, 8], b=[1, 1], c=[4, 3])
    scales = Scales(graph, seen, ["a", "b", "c"])
    # The larger of a and c in each channel.
    expected = HEADROOM * np.array([4.0, 8.0]) / 32767
    np.testing.assert_allclose(scales["a"], expected)
    np.testing.assert_allclose(scales["c"], expected)
    np.testing.assert_allclose(scales["b"], HEADROOM / 32767 * np.ones(2))


def test_a_weight_that_exceeds_16_bits_is_the_sum_of_parts() -> None:
    graph = Graph(
        "x", "y", {"x": (1, 4, 4), "y": (2, 4, 4)},
        (convolution("y", [[5.0], [0.5]], "x"),), "a test",
    )  # fmt: skip
    scales = Scales(graph, seen_of(graph, x=[1], y=[1, 1]), ["y"])
    fixed = quantize_convolution(graph.layers[0], "y", scales["x"], scales["y"])  # type: ignore[arg-type]
    # Scales are equal, so 5 is 5 * 2^15: five parts of 32767 are 5 too few.
    assert fixed.weight.reshape(-1).tolist() == [163840, 16384]
    index, values = split_weights(np.array([163840, -40000, 32767, -3]))
    assert index.tolist() == [0] * 6 + [1, 1, 2, 3]
    assert values[:6].sum() == 163840
    assert values[:6].max() - values[:6].min() <= 1
    assert values[6:].tolist() == [-20000, -20000, 32767, -3]
    assert count_parts(np.array([163840, -40000, 0, 1])) == 6 + 2 + 0 + 1


def test_the_scale_of_a_depthwise_convolution_is_raised_until_its_weights_fit() -> None:
    layer = Convolution(
        "y", ("x",), "y", np.array([5.0, 0.5], np.float32).reshape(2, 1, 1, 1),
        np.zeros(2, np.float32), Window((1, 1)), groups=2, bounds=RELU,
    )  # fmt: skip
    graph = Graph("x", "y", {"x": (2, 4, 4), "y": (2, 4, 4)}, (layer,), "a test")
    seen = Observation({"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)})
    scales = Scales(graph, seen, ["y"])
    unit = HEADROOM / 32767
    # 5 * unit / scale * 2^15 must be at most 2^15; 0.5 fits as it is.
    assert 5 * unit <= scales["y"][0] < 5.01 * unit
    assert scales["y"][1] == pytest.approx(unit)
    fixed = quantize_convolution(layer, "y", scales["x"], scales["y"])
    assert 32700 < np.abs(fixed.weight).max() <= 32767


def test_channels_whose_sums_clip_on_the_way_get_more_room() -> None:
    # Six times 1, then five times -1: on the way the sum is 6, which three times the first range
    # holds. The other row never exceeds its result.
    weight = [[1.0] * 6 + [-1.0] * 5, [0.5] + [0.0] * 10]
    layer = convolution("y", weight, "x")
    shapes: dict[str, Shape] = {"x": (11, 4, 4), "y": (2, 4, 4)}
    graph = Graph("x", "y", shapes, (layer,), "a test")
    scales = Scales(graph, seen_of(graph, x=[1.0] * 11, y=[1.0, 0.5]), ["y"])
    sample = Sample(np.ones((11, 1, 4), np.float32), None)
    before = Probe(layer, sample, RunningSums()).run(scales["x"], scales["y"])
    np.testing.assert_allclose(before.peak, [6 / HEADROOM, 0.5], rtol=2e-3)
    trials = scales.settle()
    np.testing.assert_allclose(trials["y"].peak, [1 / ROOM, 0.5], rtol=2e-3)
    assert trials["y"].error < 1e-3
    np.testing.assert_allclose(scales["y"] * 32767, [6 * ROOM, 0.5 * HEADROOM], rtol=3e-3)


@pytest.mark.parametrize("seed", range(4))
def test_no_sum_that_was_seen_saturates_in_the_order_of_the_kernel(seed: int) -> None:
    # Few heavy weights in each row, of both signs; some input channels are always 0.
    random = np.random.default_rng(seed)
    weight = random.standard_normal((200, 48)) * (random.random((200, 48)) < 0.3)
    values = np.maximum(random.standard_normal((48, 20)), 0)
    values[random.random(48) < 0.2] = 0
    layer = convolution("y", weight.tolist(), "x")
    shapes: dict[str, Shape] = {"x": (48, 4, 5), "y": (200, 4, 5)}
    graph = Graph("x", "y", shapes, (layer,), "a test")
    exact = np.maximum(weight @ values, 0)
    seen = Observation({"x": values.max(1), "y": exact.max(1)})
    seen.samples["y"] = Sample(values[:, None].astype(np.float32), None)
    scales = Scales(graph, seen, ["y"])
    scales.settle()
    fixed = quantize_convolution(layer, "y", scales["x"], scales["y"])
    given = np.rint(values / scales["x"][:, None]).astype(np.int64)
    taps = direct_taps(layer.window, (4, 5), (4, 5))
    nonzeros = find_nonzeros(fixed, taps, np.zeros(1, np.int64))
    for blocks in (1, 2, 3, 4, 8):
        table = sparse_table(nonzeros, blocks, 64, 64)
        lists = zip(table.ends[:-1], table.ends[1:], table.order, strict=True)
        sums = np.zeros((200, 20), np.int64)
        for number, (first, last, row) in enumerate(lists):
            channels = table.block_planes[number // 200] + table.entries[first:last]
            products = table.weights[first:last, None].astype(np.int64) * given[channels]
            on_the_way = sums[row] + np.cumsum((products + (1 << 14)) >> 15, 0)
            assert np.abs(on_the_way).max(initial=0) <= 32767
            sums[row] = on_the_way[-1] if len(on_the_way) else sums[row]


@pytest.mark.parametrize("few", [0, observation.FEW], ids=["fast code", "code made quickly"])
def test_observation_sees_what_float64_computes(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "FEW", few)
    random = np.random.default_rng(0)
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    first = Convolution(
        "a", ("x",), "a", random.standard_normal((6, 3, 3, 3)).astype(np.float32),
        random.standard_normal(6).astype(np.float32), window, bounds=RELU,
    )  # fmt: skip
    second = Convolution(
        "b", ("a", "a"), "b", random.standard_normal((6, 6, 1, 1)).astype(np.float32),
        np.zeros(6, np.float32), Window((1, 1)),
    )  # fmt: skip
    shapes: dict[str, Shape] = {"x": (3, 11, 9), "a": (6, 6, 5), "b": (6, 6, 5)}
    graph = Graph("x", "b", shapes, (first, second), "a test")
    images = random.standard_normal((3, 3, 11, 9)).astype(np.float32)
    seen = observe(graph, host_hardware(), images[:2], images[2:])
    middle = run_graph(Graph("x", "a", shapes, (first,), ""), images)
    np.testing.assert_allclose(seen.largest["a"], np.abs(middle[:2]).max((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(seen.outputs, run_graph(graph, images)[2:], rtol=1e-4, atol=1e-4)
    # Every pixel that is looked at is one of the map, with its residual.
    sample = seen.samples["b"]
    assert sample.residual is not None
    np.testing.assert_array_equal(sample.seen[:, 0], sample.residual)
    pixels = {tuple(each) for each in np.round(middle, 3).transpose(0, 2, 3, 1).reshape(-1, 6)}
    assert {tuple(each) for each in np.round(sample.residual.T.astype(float), 3)} <= pixels


@pytest.mark.slow
def test_layers_that_lose_more_than_is_tolerated_stay_in_fp32() -> None:
    random = np.random.default_rng(0)

    def layer(name: str, source: str, weight: np.ndarray) -> Convolution:
        bias = np.zeros(len(weight), np.float32)
        window = Window((3, 3), pads=(1, 1, 1, 1))
        return Convolution(name, (source,), name, weight, bias, window, bounds=RELU)

    weights = random.standard_normal((4, 32, 32, 3, 3)).astype(np.float32) / 17
    weights[random.random(weights.shape) < 0.7] = 0
    names = ["x", "a", "b", "c", "d"]
    layers = [layer(n, s, w) for n, s, w in zip(names[1:], names, weights, strict=False)]
    graph = Graph("x", "d", dict.fromkeys(names, (32, 28, 28)), tuple(layers), "a test")
    images = random.standard_normal((6, 32, 28, 28)).astype(np.float32)
    seen = observe(graph, host_hardware(), images[:4], images[4:])
    good = fix(graph, seen, host_hardware(), 0.01)
    kinds = [type(each) for each in good.graph.layers]
    assert kinds == [Quantize, *[FixedConvolution] * 4, Dequantize]
    assert not good.lossy
    assert max(good.errors.values()) < 0.005
    strict = sorted(good.errors.values())[-2]  # all but the worst
    worst = max(good.errors, key=lambda name: good.errors[name])
    some = fix(graph, seen, host_hardware(), strict * 1.001)
    assert worst in some.lossy
    none = fix(graph, seen, host_hardware(), 1e-9)
    assert none.graph is graph
    assert set(none.lossy) == {"a", "b", "c", "d"}
