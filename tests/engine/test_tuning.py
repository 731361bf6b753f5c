"""The tuner: whatever it chooses, the network computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import strzoo
from strzoo.engine.frontend.read import read_graph
from strzoo.engine.hardware import host_hardware
from strzoo.engine.layout.problems import list_problems
from strzoo.engine.layout.tiling import candidates
from strzoo.engine.passes import simplify
from strzoo.engine.tuning import tune_tilings
from strzoo.settings import Settings
from tests.helpers.engine.models import build, images, run_onnxruntime
from tests.helpers.engine.networks import relative_error

IMAGE = (4, 14, 12)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal(s, np.float32) for s in ((24, 4, 3, 3), (16, 24, 1, 1))]
    weights[1][generator.random(weights[1].shape) < 0.9] = 0
    return build(
        "h = Conv<pads = [1, 1, 1, 1]>(x, a) r = Relu(h) y = Conv(r, b)",
        image="float[N, 4, 14, 12] x",
        output="float[N, 16, 14, 12] y",
        a=weights[0],
        b=weights[1],
    )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_every_convolution_gets_one_of_its_candidates(model: onnx.ModelProto, threads: int) -> None:
    graph, hardware = simplify(read_graph(model)), host_hardware()
    problems = list_problems(graph, hardware, 1, threads)
    assert len(problems) == 2
    for seconds in (0.0, 1.5):
        chosen = tune_tilings(graph, hardware, 1, threads, seconds)
        assert set(chosen) == set(problems)
        for name, tiling in chosen.items():
            assert tiling in candidates(problems[name].problem, tiling.tile, hardware)


@pytest.mark.slow
def test_a_tuned_model_computes_the_same_and_is_kept(
    model: onnx.ModelProto, shared: Settings
) -> None:
    x = images(IMAGE, 2)
    tuned = strzoo.compile(model, 1, tune=0.5, settings=shared)
    assert tuned.report.tuned == 0.5
    assert relative_error(tuned(x), run_onnxruntime(model, x)) < 1e-5
    again = strzoo.compile(model, 1, tune=0.5, settings=shared)
    assert again.report.cached
    assert np.array_equal(again(x), tuned(x))
    assert not strzoo.compile(model, 1, settings=shared).report.cached
