"""strzoo.compile(precision="int16"): what it computes, what it reports, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

import strzoo
from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.passes import simplify
from strzoo.engine.quantization import fixing
from strzoo.engine.quantization.fixing import fix
from strzoo.engine.quantization.observation import observe
from strzoo.errors import UsageError
from strzoo.settings import Settings
from tests.conftest import CliResult
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.fixed import run_fixed_graph
from tests.helpers.engine.graphs import graphs
from tests.helpers.engine.models import images, run_onnxruntime
from tests.helpers.engine.networks import load_model

pytestmark = pytest.mark.skipif(
    not host_hardware().fixed, reason="no instruction for fixed point here"
)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking would compile for minutes


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    noise = np.sum((found.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(np.sum(expected.astype(np.float64) ** 2) / max(noise, 1e-30)))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(
    graph=graphs(),
    lanes=st.sampled_from([4, 8, 16]),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_graphs_compute_in_int16_what_integers_compute(
    graph: Graph, lanes: int, threads: int, seed: int
) -> None:
    shape = graph.shapes[graph.input]
    x = np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)
    graph = simplify(graph)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixing, "CONVERTED", 0.0)  # wherever it can be, even where it does not pay
        hardware = Hardware(lanes, 32 if lanes == 16 else 16, identity=host_hardware().identity)
        seen = observe(graph, hardware, x[:2], x[2:])
        fixed = fix(graph, seen, hardware, 1e9).graph
    expected = run_fixed_graph(fixed, x)
    found = run_engine(fixed, x, lanes=lanes, group=1, threads=threads)
    expected = expected.reshape(found.shape)
    largest = max(float(np.abs(expected).max(initial=0)), 1e-3)
    assert np.abs(found - expected).max(initial=0) <= 2e-3 * largest


# Networks that were never trained amplify errors, deep ones most of all.
@pytest.mark.parametrize(
    ("architecture", "size", "threads", "least"),
    [
        ("resnet18", 64, 1, 40),
        ("resnet50", 64, 2, 20),
        ("mobilenetv1", 96, 1, 30),
        ("mobilenet_v2", 64, 2, 30),
    ],
)
def test_pruned_networks_agree_with_onnxruntime(
    architecture: str, size: int, threads: int, least: float, shared: Settings
) -> None:
    model = load_model(architecture, size)
    x = images((3, size, size), 24)
    compiled = strzoo.compile(
        model, threads, precision="int16", calibration=x[4:], tolerance=0.05, settings=shared
    )
    report = compiled.report.fixed
    assert report is not None
    assert (report.calibrated, report.held_out, report.images) == (14, 6, "the given images")
    assert report.layers > 10
    assert not report.lossy
    assert decibels(compiled(x[:4]), run_onnxruntime(model, x[:4])) > least
    assert report.snr > least
    forms = [layer.form for layer in compiled.report.layers]
    assert sum(form.endswith("int16") for form in forms) == report.layers


def test_the_bundled_images_calibrate_and_the_plan_keeps_what_came_of_it(tmp_path: Path) -> None:
    model = load_model("resnet18", 64)
    mine = Settings(cache_dir=tmp_path / "cache", offline=True)
    compiled = strzoo.compile(model, 1, precision="int16", settings=mine)
    report = compiled.report.fixed
    assert report is not None
    assert (report.images, report.calibrated, report.held_out) == ("photographs", 6, 3)
    assert not compiled.report.cached
    x = images((3, 64, 64), 3)
    again = strzoo.compile(model, 1, precision="int16", settings=mine)
    assert again.report.cached
    assert again.report.fixed == report
    assert np.array_equal(again(x), compiled(x))
    path = compiled.save(tmp_path / "model.strz")
    read = strzoo.compile(path, settings=mine)
    assert read.report.fixed == report
    assert np.array_equal(read(x), compiled(x))
    # Another tolerance, other images and fp32 have plans of their own.
    for others in ({"tolerance": 0.5}, {"calibration": x}):
        other = strzoo.compile(model, 1, precision="int16", settings=mine, **others)
        assert not other.report.cached
    plain = strzoo.compile(model, 1, settings=mine)
    assert not plain.report.cached
    assert plain.report.fixed is None
    assert plain.report.arena > 1.5 * compiled.report.arena


def test_layers_that_lose_too_much_run_in_fp32_and_are_named(shared: Settings) -> None:
    model, x = load_model("resnet18", 64), images((3, 64, 64), 6)
    strict = strzoo.compile(
        model, 1, precision="int16", calibration=x, tolerance=1e-7, settings=shared
    )
    report = strict.report.fixed
    assert report is not None
    assert report.layers == 0
    assert len(report.lossy) == 20
    assert report.lossy[0] in report.summary()
    plain = strzoo.compile(model, 1, settings=shared)
    assert np.array_equal(strict(x), plain(x))
    assert report.snr == np.inf
    assert strict.report.to_dict()["fixed"]["snr"] is None


def test_arguments_that_do_not_fit_are_named(tmp_path: Path, shared: Settings) -> None:
    model = load_model("resnet18", 64)

    def refuse(problem: str, **arguments: object) -> None:
        with pytest.raises(UsageError, match=problem):
            strzoo.compile(model, 1, settings=shared, **arguments)  # type: ignore[arg-type]

    refuse("precision is 'int8'; it must be one of fp32, int16", precision="int8")
    refuse("are for precision int16", tolerance=0.1)
    refuse("are for precision int16", calibration="photographs")
    refuse("tolerance is 0", precision="int16", tolerance=0)
    refuse("lanes is 2; in int16", precision="int16", lanes=2)
    refuse("is not a folder of images", precision="int16", calibration=str(tmp_path / "none"))
    wrong = np.zeros((2, 3, 32, 32), np.float32)
    refuse(r"images of shape \(2, 3, 32, 32\)", precision="int16", calibration=wrong)
    refuse("images of shape", precision="int16", calibration=torch.zeros(0, 3, 64, 64))
    path = strzoo.compile(model, 1, settings=shared).save(tmp_path / "plain.strz")
    with pytest.raises(UsageError, match="give the precision when compiling"):
        strzoo.compile(path, precision="int16", settings=shared)


def test_the_command_line_compiles_in_int16(cli: Callable[..., CliResult], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(load_model("resnet18", 64), str(path))
    given = ("compile", path, "--threads", 1, "--precision", "int16")
    done = cli(*given, "--tolerance", 0.05)
    assert done.code == 0, done.error
    assert ", int16" in done.out
    assert "calibrated with 6 of photographs; agreement with fp32 on 3 others: top-1" in done.out
    assert cli(*given, "--tolerance", 0).code == 2
