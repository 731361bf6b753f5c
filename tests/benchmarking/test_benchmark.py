"""Benchmarks: what is derived from the latencies is right, and nothing is claimed from noise."""

from __future__ import annotations

import ctypes
import statistics
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

import strzoo
from strzoo.benchmarking import engines
from strzoo.benchmarking.benchmark import _fill_graph
from strzoo.benchmarking.plot import plot_benchmark
from strzoo.benchmarking.results import FASTER, NOTHING, UNCLEAR, judge
from strzoo.benchmarking.signal_stack import SignalStack, keep_signal_stack, read_signal_stack
from strzoo.engine import compile as compilation
from strzoo.engine.ir.parts import Port
from strzoo.errors import StrzooError, UsageError, VerificationError


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Install a sparse engine that is onnxruntime, its output scaled by a factor."""

    def install(factor: float) -> None:
        class Compiled:
            def __init__(self, path: str, *_: object, precision: str, **__: object) -> None:
                assert precision in ("fp32", "int16")
                providers = ["CPUExecutionProvider"]
                self._session = onnxruntime.InferenceSession(path, providers=providers)
                self.inputs = (Port("images", "float32", (None, 3, 32, 32)),)

            def __call__(self, images: np.ndarray) -> np.ndarray:
                return np.asarray(factor * self._session.run(None, {"images": images})[0])

        monkeypatch.setattr(compilation, "compile", Compiled)

    return install


@pytest.mark.slow
def test_a_benchmark_reports_latency_throughput_memory_and_ratios(resnet20_file: Path) -> None:
    made = strzoo.benchmark(
        resnet20_file, engines=["torch", "onnxruntime"], batches=[1, 2], runs=4, threads=1
    )
    assert [(row.engine, row.batch) for row in made.timings] == [
        ("torch", 1),
        ("onnxruntime", 1),
        ("torch", 2),
        ("onnxruntime", 2),
    ]
    for row in made.timings:
        assert len(row.latencies) == row.runs == 4
        assert row.p50 == pytest.approx(statistics.median(row.latencies))
        assert row.fastest == min(row.latencies) <= row.p50 <= row.p90 <= row.p99
        assert row.images_per_second == pytest.approx(row.batch / (row.p50 / 1000))
        assert row.ratio == pytest.approx(row.dense_onnxruntime / row.p50)
        assert row.sparsity == pytest.approx(90.0, abs=0.01)
        if sys.platform == "linux":
            assert row.peak_memory is not None
            assert 10e6 < row.peak_memory < 4e9
    # On onnxruntime the dense twin is the reference, so both figures are the same.
    assert [r.gain for r in made.timings if r.engine == "onnxruntime"] == [
        pytest.approx(r.ratio) for r in made.timings if r.engine == "onnxruntime"
    ]
    torch_row, onnx_row = made.timings[:2]
    assert torch_row.file_bytes == resnet20_file.stat().st_size
    assert onnx_row.file_bytes
    assert len(made.verdicts) == 4
    assert made.threads == 1


def test_zeros_are_said_to_help_only_if_median_minimum_and_chance_agree() -> None:
    dense = [10.0 + 0.01 * n for n in range(20)]
    assert judge([value / 2 for value in dense], dense) == FASTER
    assert judge(dense, dense) == NOTHING
    assert judge([value / 1.02 for value in dense], dense) == NOTHING
    assert judge([2 * value for value in dense], dense) == NOTHING
    # Three runs of three can be faster by chance, once in eight times.
    assert judge([5.0, 5.0, 5.0], [10.0, 10.0, 10.0]) == UNCLEAR
    # The median gained, but the fastest runs are alike: a slow spell hit the twin.
    assert judge([9.9] * 20, [9.9] + [20.0] * 19) == UNCLEAR


def test_the_sparse_engine_takes_part_where_it_is_installed(
    resnet20_onnx: strzoo.OnnxExport, stand_in: Callable[[float], None]
) -> None:
    stand_in(1.0)
    made = strzoo.benchmark(resnet20_onnx.path, runs=2, memory=False)
    # torch needs a checkpoint; an ONNX file runs on the engines that read ONNX.
    assert [row.engine for row in made.timings] == ["onnxruntime", "sparse"]
    assert all(row.peak_memory is None for row in made.timings)


def test_an_engine_that_computes_something_else_is_not_timed(
    resnet20_onnx: strzoo.OnnxExport, stand_in: Callable[[float], None]
) -> None:
    stand_in(1.1)
    with pytest.raises(VerificationError, match=r"sparse differs from the other engines by 0\.1"):
        strzoo.benchmark(resnet20_onnx.path, runs=2, memory=False)


def test_engines_of_lower_precision_run_the_network_in_it(
    resnet20_onnx: strzoo.OnnxExport, stand_in: Callable[[float], None]
) -> None:
    names = ["onnxruntime-int8", "onnxruntime", "sparse-int16"]
    names += ["openvino", "openvino-int8"] if find_spec("openvino") else []
    stand_in(1.0)
    made = strzoo.benchmark(resnet20_onnx.path, engines=names, runs=2, threads=1, memory=False)
    assert [row.engine for row in made.timings] == names
    sizes = {row.engine: row.file_bytes for row in made.timings}
    assert sizes["onnxruntime-int8"] < 0.5 * sizes["onnxruntime"]
    assert all(row.ratio is not None and row.gain is not None for row in made.timings)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stacks are kept on Linux")
def test_a_thread_keeps_its_stack_for_signals(resnet20_onnx: strzoo.OnnxExport) -> None:
    pytest.importorskip("openvino")  # which leaves another one behind
    memory = ctypes.create_string_buffer(1 << 16)
    given = SignalStack(ctypes.addressof(memory), 0, len(memory))
    with keep_signal_stack():
        ctypes.CDLL(None).sigaltstack(ctypes.byref(given), None)
        strzoo.benchmark(resnet20_onnx.path, engines=["openvino"], runs=1, memory=False)
        found = read_signal_stack()
        assert (found.start, found.size) == (given.start, given.size)


def test_missing_engines_and_bad_arguments_are_named(
    resnet20_file: Path, resnet20_onnx: strzoo.OnnxExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "has_sparse_engine", lambda: False)
    with pytest.raises(StrzooError, match=r"pip install 'llvmlite>=0.45'"):
        strzoo.benchmark(resnet20_file, engines=["sparse"])
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(StrzooError, match=r"openvino-int8 needs OpenVINO: .*openvino>=2024\.6"):
        strzoo.benchmark(resnet20_file, engines=["openvino-int8"])
    with pytest.raises(UsageError, match="'tvm' is not one of torch, torch-compile, onnxruntime"):
        strzoo.benchmark(resnet20_file, engines=["tvm"])
    with pytest.raises(UsageError, match="must be at least 1"):
        strzoo.benchmark(resnet20_file, batches=[0])
    with pytest.raises(UsageError, match="none of the engines reads"):
        strzoo.benchmark(resnet20_onnx.path, engines=["torch"])


def test_a_plot_is_drawn_with_matplotlib_and_its_absence_is_named(
    resnet20_onnx: strzoo.OnnxExport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("WARNING", "strzoo"):
        made = strzoo.benchmark(
            resnet20_onnx.path, engines=["torch", "onnxruntime"], runs=2, memory=False
        )
    assert f"{resnet20_onnx.path} is an ONNX file: not for torch" in caplog.text
    assert {timing.engine for timing in made.timings} == {"onnxruntime"}
    with pytest.raises(UsageError, match=r"must end in one of \.png, \.svg, \.pdf"):
        plot_benchmark(made, tmp_path / "a.gif")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(StrzooError, match=r"pip install 'matplotlib>=3.8'"):
            plot_benchmark(made, tmp_path / "a.png")
    pytest.importorskip("matplotlib")
    plot_benchmark(made, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StrzooError, match="exists; pass --force"):
        plot_benchmark(made, tmp_path / "a.png")


def test_the_dense_twin_keeps_what_is_no_weight(tmp_path: Path) -> None:
    weight = np.eye(3, dtype=np.float32)[:, :, None, None]
    nodes = [
        onnx.helper.make_node("Conv", ["x", "weight"], ["c"]),
        onnx.helper.make_node("Gather", ["c", "index"], ["g"], axis=1),
        onnx.helper.make_node("Add", ["g", "mask"], ["y"]),
    ]
    values: dict[str, np.ndarray] = {
        "weight": weight,
        "index": np.zeros((1, 1), np.int64),
        "mask": np.array([[0, -1e9]], np.float32),
    }
    given = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, 2, 2])
    made = onnx.helper.make_tensor_value_info("y", 1, ["n", 1, 1, 2, 2])
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, "g", [given], [made], tensors)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx"
    )
    filled = _fill_graph(onnx.load(tmp_path / "m.onnx"))
    found = {t.name: onnx.numpy_helper.to_array(t) for t in filled.graph.initializer}
    assert found["weight"].all()
    for name in ("index", "mask"):
        np.testing.assert_array_equal(found[name], values[name])
    timed = strzoo.benchmark(tmp_path / "m.onnx", engines=["onnxruntime"], runs=2, memory=False)
    assert timed.timings[0].gain is not None


@pytest.mark.slow
def test_files_that_take_pixels_run_on_every_engine(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite")
    network = strzoo.create_model("resnet20", num_classes=10)
    made = strzoo.export_onnx(network, tmp_path / "pixels.onnx", preprocessing=True)
    names = ["onnxruntime", "sparse", *(["openvino"] if find_spec("openvino") else [])]
    timed = strzoo.benchmark(made.path, engines=names, runs=2, threads=1, memory=False)
    assert [row.engine for row in timed.timings] == names


def test_a_plan_is_not_timed_at_another_size_than_its_own(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plan = strzoo.compile(network, 1, size=12).save(tmp_path / "m.strz")
    with pytest.raises(UsageError, match="compiled for images of 3x12x12"):
        strzoo.benchmark(plan, input_size=(3, 24, 24), runs=2, memory=False)
