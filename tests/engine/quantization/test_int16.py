"""strzoo.compile(precision="int16"): what it computes, what it reports, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

import strzoo
from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.passes import simplify
from strzoo.engine.quantization import fixing
from strzoo.engine.quantization.fixing import fix
from strzoo.engine.quantization.observation import observe
from strzoo.errors import StrzooError, UsageError
from strzoo.settings import Settings
from tests.conftest import CliResult
from tests.engine.runtime.test_run import run_engine
from tests.helpers.engine.fixed import run_fixed_graph
from tests.helpers.engine.graphs import graphs
from tests.helpers.engine.models import build, images, run_onnxruntime
from tests.helpers.engine.networks import load_model
from tests.helpers.engine.spelled import RUNNABLE, spelled_out
from tests.helpers.fuzzing import QUIETLY

pytestmark = pytest.mark.skipif(
    not host_hardware().fixed, reason="no instruction for fixed point here"
)


def small_model() -> onnx.ModelProto:
    """Three convolutions, a residual sum and a classifier; 9 of 10 weights are zero."""
    random = np.random.default_rng(0)

    def sparse(*shape: int) -> np.ndarray:
        weight = random.standard_normal(shape) * (random.random(shape) < 0.1)
        return (weight * (20 / np.prod(shape[1:])) ** 0.5).astype(np.float32)

    body = """
        a = Conv<pads=[1, 1, 1, 1]>(x, w1)
        b = Relu(a)
        c = Conv(b, w2)
        d = Relu(c)
        e = Conv<pads=[1, 1, 1, 1]>(d, w3)
        f = Add(e, b)
        g = Relu(f)
        h = GlobalAveragePool(g)
        i = Flatten(h)
        y = Gemm<transB=1>(i, w4)
    """
    weights: dict[str, Any] = {
        "w1": sparse(32, 3, 3, 3),
        "w2": sparse(32, 32, 1, 1),
        "w3": sparse(32, 32, 3, 3),
        "w4": random.standard_normal((10, 32)).astype(np.float32),
    }
    return build(body, image="float[N, 3, 32, 32] x", output="float[N, 10] y", **weights)


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    noise = np.sum((found.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(np.sum(expected.astype(np.float64) ** 2) / max(noise, 1e-30)))


@pytest.mark.slow
@settings(max_examples=6, **QUIETLY)
@given(
    graph=graphs(),
    lanes=st.sampled_from(RUNNABLE),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_graphs_compute_in_int16_what_integers_compute(
    graph: Graph, lanes: int, threads: int, seed: int
) -> None:
    shape = graph.shapes[graph.input]
    x = np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)
    graph = simplify(graph)
    with spelled_out() as patch:
        patch.setattr(fixing, "CONVERTED", 0.0)  # wherever it can be, even where it does not pay
        hardware = Hardware(lanes, 32 if lanes == 16 else 16, identity=host_hardware().identity)
        # Images that were not looked at may saturate sums on the way, which the reference does not.
        seen = observe(graph, hardware, x, x[2:])
        fixed = fix(graph, seen, hardware, 1e9).graph
    expected = run_fixed_graph(fixed, x)
    found = run_engine(fixed, x, lanes=lanes, group=1, threads=threads)
    expected = expected.reshape(found.shape)
    largest = max(float(np.abs(expected).max(initial=0)), 1e-3)
    assert np.abs(found - expected).max(initial=0) <= 2e-3 * largest


@pytest.mark.slow
def test_a_pruned_network_agrees_with_onnxruntime(shared: Settings) -> None:
    model = load_model("mobilenet_v2", 64)
    x = images((3, 64, 64), 24)
    compiled = strzoo.compile(model, 2, precision="int16", calibration=x[4:], settings=shared)
    report = compiled.report.fixed
    assert report is not None
    assert (report.calibrated, report.held_out, report.images) == (14, 6, "the given images")
    assert report.layers > 50
    assert not report.lossy
    # It was never trained, so it amplifies errors.
    assert decibels(compiled(x[:4]), run_onnxruntime(model, x[:4])) > 28
    assert report.snr > 28
    forms = [layer.form for layer in compiled.report.layers]
    assert sum(form.endswith("int16") for form in forms) == report.layers


@pytest.mark.slow
def test_the_bundled_images_calibrate_and_the_plan_keeps_what_came_of_it(tmp_path: Path) -> None:
    model = small_model()
    mine = Settings(cache_dir=tmp_path / "cache", offline=True)
    compiled = strzoo.compile(model, 1, precision="int16", settings=mine)
    report = compiled.report.fixed
    assert report is not None
    assert (report.images, report.calibrated, report.held_out) == ("photographs", 6, 3)
    assert not compiled.report.cached
    x = images((3, 32, 32), 3)
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


@pytest.mark.slow
def test_layers_that_lose_too_much_run_in_fp32_and_are_named(shared: Settings) -> None:
    model, x = small_model(), images((3, 32, 32), 6)
    strict = strzoo.compile(
        model, 1, precision="int16", calibration=x, tolerance=1e-7, settings=shared
    )
    report = strict.report.fixed
    assert report is not None
    assert report.layers == 0
    assert len(report.lossy) == 3
    assert report.lossy[0] in report.summary()
    plain = strzoo.compile(model, 1, settings=shared)
    assert np.array_equal(strict(x), plain(x))
    assert report.snr == np.inf
    assert strict.report.to_dict()["fixed"]["snr"] is None


def test_arguments_that_do_not_fit_are_named(tmp_path: Path, shared: Settings) -> None:
    model = small_model()

    def refuse(problem: str, **arguments: object) -> None:
        with pytest.raises(UsageError, match=problem):
            strzoo.compile(model, 1, settings=shared, **arguments)  # type: ignore[arg-type]

    refuse("precision is 'int4'; it must be one of fp32, int16, int8", precision="int4")
    refuse("are for precision int16", tolerance=0.1)
    refuse("are for precision int16", calibration="photographs")
    refuse("tolerance is 0", precision="int16", tolerance=0)
    refuse("lanes is 2; in int16", precision="int16", lanes=2)
    refuse("is not a folder of images", precision="int16", calibration=str(tmp_path / "none"))
    wrong = np.zeros((2, 3, 16, 16), np.float32)
    refuse(r"images of shape \(2, 3, 16, 16\)", precision="int16", calibration=wrong)
    refuse("images of shape", precision="int16", calibration=torch.zeros(0, 3, 32, 32))
    some = np.random.default_rng(0).standard_normal((6, 3, 32, 32)).astype(np.float32)
    for number in (np.nan, np.inf, -np.inf):
        some[4, 2, 1, 0] = number
        refuse("hold NaN or infinity", precision="int16", calibration=some)
    refuse("are 0 everywhere", precision="int16", calibration=np.zeros_like(some))
    path = strzoo.compile(model, 1, settings=shared).save(tmp_path / "plain.strz")
    with pytest.raises(UsageError, match="give the precision when compiling"):
        strzoo.compile(path, precision="int16", settings=shared)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["w2", "b2"])
def test_numbers_that_are_not_finite_keep_a_layer_in_fp32(number: float, place: str) -> None:
    """Where later layers take them away again: the network's outputs are finite."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((32, 3, 3, 3)), "w2": random.standard_normal((32, 32, 3, 3)),
        "b2": random.standard_normal(32), "w3": random.standard_normal((32, 32, 3, 3)),
    }  # fmt: skip
    floats: dict[str, Any] = {
        name: (array / 10).astype(np.float32) for name, array in weights.items()
    }
    floats[place].flat[5] = number
    floats |= {"low": np.float32(-1), "high": np.float32(1)}
    body = """a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = Conv <pads = [1, 1, 1, 1]> (a, w2, b2)
        c = Clip (b, low, high) y = Conv <pads = [1, 1, 1, 1]> (c, w3)"""
    model = build(body, image="float[N, 3, 24, 24] x", output="float[N, C, H, W] y", **floats)
    x = images((3, 24, 24), 6)
    if np.isnan(number) or place == "w2":  # times the zeros of the padding it is a NaN
        with pytest.raises(UsageError, match=r"makes NaN or infinity of the images to calibrate"):
            strzoo.compile(model, 1, precision="int16", calibration=x, cache=False)
        return
    made = strzoo.compile(model, 1, precision="int16", calibration=x, cache=False)
    forms = {layer.name: layer.form for layer in made.report.layers}
    assert "int16" not in forms["b"]
    assert "int16" in forms["y"]
    expected = strzoo.compile(model, 1, cache=False)(x)
    assert np.abs(made(x) - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.slow
def test_the_command_line_compiles_in_int16(cli: Callable[..., CliResult], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), str(path))
    given = ("compile", path, "--threads", 1, "--precision", "int16")
    done = cli(*given, "--tolerance", 0.05)
    assert done.code == 0, done.error
    assert ", int16" in done.out
    assert "calibrated with 6 of photographs; agreement with fp32 on 3 others: top-1" in done.out
    assert cli(*given, "--tolerance", 0).code == 2


def test_a_folder_whose_images_are_no_files_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone")
    with pytest.raises(StrzooError, match=r"a\.png does not exist"):
        strzoo.compile(small_model(), 1, precision="int16", calibration=tmp_path, cache=False)
    with pytest.raises(UsageError, match="no such user"):
        strzoo.compile(small_model(), 1, precision="int16", calibration="~nobody-of-that-name")
