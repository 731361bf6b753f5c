"""strzoo.compile(precision="int8"): blocks of four input channels that are zero together."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("llvmlite")

import strzoo
from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.passes import simplify
from strzoo.engine.quantization import fixing, quads
from strzoo.engine.quantization.observation import observe
from strzoo.engine.quantization.quads import fix_quads
from strzoo.errors import UsageError
from strzoo.settings import Settings
from tests.engine.quantization.test_int16 import decibels
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.fixed import run_fixed_graph
from tests.helpers.engine.graphs import graphs
from tests.helpers.engine.networks import export, make_network
from tests.helpers.engine.spelled import LANES, needs_lanes, spelled_out
from tests.helpers.fuzzing import QUIETLY

needs_quads = pytest.mark.skipif(not host_hardware().quads, reason="no dot products of 8 bits here")


@lru_cache(maxsize=1)
def block_network() -> tuple[nn.Module, onnx.ModelProto]:
    """Five convolutions and a classifier, in which half of the blocks of four are zero."""
    network = make_network("small", size=16, classes=10)
    strzoo.sparsify_(network, "gmp", prune_rate=0.5, block=4)
    network = strzoo.to_dense_(network).eval()
    return network, export(network, 16, older=True)


@needs_lanes
@settings(max_examples=3, **QUIETLY)
@given(
    graph=graphs(),
    lanes=st.sampled_from(LANES or [8]),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_graphs_compute_in_int8_what_integers_compute(
    graph: Graph, lanes: int, threads: int, seed: int
) -> None:
    shape = graph.shapes[graph.input]
    x = np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)
    graph = simplify(graph)
    with spelled_out() as patch:
        # Wherever it can be, even where it does not pay.
        patch.setattr(fixing, "CONVERTED", 0.0)
        patch.setattr(quads, "_cycles", lambda *_: 0.0)
        hardware = Hardware(
            lanes, 32 if lanes == 16 else 16, identity=host_hardware().identity, quads=True
        )
        seen = observe(graph, hardware, x[:2], x[2:])
        fixed = fix_quads(graph, seen, hardware, 1e9).graph
        found = run_engine(fixed, x, lanes=lanes, group=1, threads=threads)
    expected = run_fixed_graph(fixed, x)
    expected = expected.reshape(found.shape)
    # A sum that is rounded half a unit away is one of 255 off, in few places.
    largest = max(float(np.abs(expected).max(initial=0)), 1e-3)
    assert np.abs(found - expected).max(initial=0) <= 0.05 * largest
    assert np.mean(np.abs(found - expected) > 5e-3 * largest) < 0.1


@needs_quads
def test_a_network_in_blocks_agrees_with_torch_and_its_plan_is_kept(tmp_path: Path) -> None:
    (network, model), x = block_network(), torch.randn(24, 3, 16, 16)
    mine = Settings(cache_dir=tmp_path / "cache", offline=True)
    compiled = strzoo.compile(model, 2, precision="int8", calibration=x, settings=mine)
    report = compiled.report.fixed
    assert report is not None
    assert (report.precision, report.tolerance, report.lossy) == ("int8", 0.05, ())
    forms = [layer.form for layer in compiled.report.layers]
    assert sum(form.endswith("int8") for form in forms) == report.layers > 1
    assert report.top1 >= 75
    with torch.inference_mode():
        expected = network(x[:8]).numpy()
    found = compiled(x[:8].numpy())
    assert decibels(found, expected) > 25
    assert decibels(found, expected) == pytest.approx(report.snr, abs=4)
    path = compiled.save(tmp_path / "model.strz")
    read = strzoo.compile(path, settings=mine)
    assert read.report.fixed == report
    assert np.array_equal(read(x[:8].numpy()), found)


@needs_quads
def test_layers_that_lose_too_much_stay_in_fp32(shared: Settings) -> None:
    (_, model), x = block_network(), torch.randn(9, 3, 16, 16)
    compiled = strzoo.compile(
        model, 1, precision="int8", calibration=x, tolerance=1e-6, settings=shared
    )
    report = compiled.report.fixed
    assert report is not None
    assert report.layers == 0
    assert len(report.lossy) == 5
    assert report.snr > 60  # weights of the classifier have 16 bits


def test_processors_without_dot_products_are_told(shared: Settings) -> None:
    with pytest.raises(UsageError, match="int8 needs dot products of 8 bits"):
        strzoo.compile(
            nn.Conv2d(4, 4, 1), 1, precision="int8", size=(4, 8, 8), cpu="x86-64-v3",
            settings=shared,
        )  # fmt: skip
