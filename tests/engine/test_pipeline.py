"""strzoo.compile: what is compiled computes what onnxruntime and torch compute."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import strzoo
from strzoo.engine.runtime import run as runtime
from strzoo.errors import StrzooError, UnknownNameError, UsageError
from strzoo.settings import Settings
from tests.helpers.engine.models import build, images, run_onnxruntime
from tests.helpers.engine.networks import export, load_model, make_network, relative_error
from tests.helpers.forking import holds_in_fork

IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def small(shared: Settings) -> strzoo.SparseModel:
    return strzoo.compile(load_model("small", 32), threads=2, settings=shared)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [2, 4])
def test_images_side_by_side_in_vectors_change_no_result(
    lanes: int, small: strzoo.SparseModel, shared: Settings
) -> None:
    model = strzoo.compile(load_model("small", 32), 2, 7, lanes=lanes, settings=shared)
    x = images(IMAGE, 7)
    assert relative_error(model(x), small(x)) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "int16"])
def test_an_output_has_the_shape_that_the_file_gives_it(
    precision: str, shared: Settings, tmp_path: Path
) -> None:
    body = "p = GlobalAveragePool (x) c = Conv (p, w) y = Softmax <axis = 1> (c)"
    kernel = np.eye(4, dtype=np.float32)[:, :, None, None]
    model, x = build(body, output="float[N, A, B, C] y", w=kernel), images((4, 7, 6), 3)
    some = None if precision == "fp32" else images((4, 7, 6), 9)
    expected = run_onnxruntime(model, x)
    assert expected.shape == (3, 4, 1, 1)
    made, again = (
        strzoo.compile(model, 1, precision=precision, calibration=some, settings=shared)
        for _ in range(2)
    )
    read = strzoo.compile(made.save(tmp_path / "a.strz"), settings=shared)
    for compiled in (made, again, read):
        np.testing.assert_allclose(compiled(x), expected, atol=1e-3)
        assert compiled(x).shape == expected.shape
        assert compiled.output_shape == (4, 1, 1)


def test_a_vector_holds_a_power_of_two_of_images(shared: Settings) -> None:
    for lanes in (3, 64):
        with pytest.raises(UsageError, match=f"lanes is {lanes}; it must be a power"):
            strzoo.compile(load_model("small", 32), lanes=lanes, settings=shared)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("resnet50", 64),
        ("mobilenetv1", 96),
        ("mobilenet_v2", 64),
        ("vgg16", 64),
        ("googlenet", 64),
    ],
)
def test_pruned_networks_compute_what_onnxruntime_computes(
    architecture: str, size: int, shared: Settings
) -> None:
    model = load_model(architecture, size)
    compiled = strzoo.compile(model, threads=1, settings=shared)
    assert (compiled.input_shape, compiled.output_shape) == ((3, size, size), (20,))
    x = images((3, size, size), 2)
    # Deep networks add up what both round in fp32.
    assert relative_error(compiled(x), run_onnxruntime(model, x)) < 1e-4


def test_any_batch_size_gives_a_row_for_each_image(small: strzoo.SparseModel) -> None:
    x = images(IMAGE, 17)
    expected = run_onnxruntime(load_model("small", 32), x)
    for batch in range(18):
        found = small(x[:batch])
        assert found.shape == (batch, 20)
        assert found.dtype == np.float32
        if batch:
            assert relative_error(found, expected[:batch]) < 1e-5


@pytest.mark.slow
def test_another_size_and_threads_together_compute_the_same(shared: Settings) -> None:
    network = make_network("small", 0.9, size=24, classes=5)
    x = images((3, 40, 24), 1)
    with torch.no_grad():
        expected = network.double()(torch.from_numpy(x).double()).numpy()
    compiled = strzoo.compile(network.float(), 3, size=(40, 24), settings=shared)
    assert compiled.input_shape == (3, 40, 24)
    assert compiled.threads == 3
    assert relative_error(compiled(x), expected) < 1e-5


def test_eight_threads_sharing_a_model_get_the_bits_that_one_gets(
    small: strzoo.SparseModel,
) -> None:
    batches = [images(IMAGE, 1 + n % 4) * (n + 1) for n in range(8)]
    expected = [small(x) for x in batches]
    found: list[list[np.ndarray]] = [[] for _ in batches]

    def work(index: int) -> None:
        for _ in range(12):
            found[index].append(small(batches[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 12
        assert all(np.array_equal(result, wanted) for result in results)


def test_threads_that_share_a_model_take_turns(small: strzoo.SparseModel) -> None:
    x = images(IMAGE, 1)
    calls = [0] * 4
    end = time.monotonic() + 1

    def work(index: int) -> None:
        while time.monotonic() < end:
            small(x)
            calls[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(calls) > max(calls) / 3 > 1, calls


def test_large_batches_go_in_parts(
    small: strzoo.SparseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(IMAGE, 23)
    expected = small(x)
    monkeypatch.setattr(runtime, "AT_ONCE", 2)
    assert np.array_equal(small(x), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_forked_while_the_model_is_at_work_can_call_it(
    small: strzoo.SparseModel,
) -> None:
    x = images(IMAGE, 8)
    expected = small(x)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            small(x)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            assert holds_in_fork(lambda: np.array_equal(small(x), expected))
    finally:
        stop.set()
        thread.join()


def test_tensors_come_back_as_tensors_and_other_floats_are_converted(
    small: strzoo.SparseModel,
) -> None:
    x = images(IMAGE, 2)
    expected = small(x)
    tensor = torch.from_numpy(x).requires_grad_()
    found = small(tensor)
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), expected)
    assert np.array_equal(small(x.astype(np.float64)), expected)
    turned = np.asfortranarray(x[:, ::-1])
    assert np.array_equal(small(turned), small(np.ascontiguousarray(turned)))
    halves = torch.from_numpy(x).to(torch.bfloat16)
    assert np.array_equal(small(halves).numpy(), small(halves.float()).numpy())


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.zeros((2, 3, 32, 31), np.float32), r"\[2, 3, 32, 31\]; expected \[N, 3, 32, 32\]"),
        (np.zeros(IMAGE, np.float32), r"\[3, 32, 32\]; expected \[N, 3, 32, 32\]"),
        (np.zeros((1, *IMAGE), np.uint8), "images of uint8; expected floats"),
        (torch.zeros(1, *IMAGE, dtype=torch.int64), "images of torch.int64; expected floats"),
        ([[1.0]], "a list instead of images"),
    ],
)
def test_other_inputs_are_refused_with_what_is_expected(
    small: strzoo.SparseModel, given: object, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        small(given)


def save_apart(model: onnx.ModelProto, path: Path) -> None:
    """As an ONNX file with its weights in another file."""
    other = path.with_suffix(".bin").name
    onnx.save(model, str(path), save_as_external_data=True, location=other, size_threshold=0)


@pytest.mark.slow
def test_every_kind_of_model_is_compiled_to_the_same_network(
    tmp_path: Path, shared: Settings
) -> None:
    network = make_network("resnet20", 0.9, size=32, classes=10)
    proto = export(network, 32)
    onnx.save(proto, str(tmp_path / "a.onnx"))
    save_apart(onnx.load(str(tmp_path / "a.onnx")), tmp_path / "b.onnx")
    checkpoint = strzoo.save_checkpoint(network, tmp_path / "c.pth")
    x = images(IMAGE, 1)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    network.train()
    kinds = (
        tmp_path / "a.onnx", str(tmp_path / "b.onnx"), proto.SerializeToString(), proto, network,
        checkpoint, strzoo.read_checkpoint(checkpoint),
    )  # fmt: skip
    for model in kinds:
        compiled = strzoo.compile(model, 1, size=32, settings=shared)
        assert relative_error(compiled(x), expected) < 1e-5, model
    assert network.training
    # Other weights in the other file; the ONNX file itself stays the same.
    changed = onnx.load(str(tmp_path / "a.onnx"))
    first = next(t for t in changed.graph.initializer if t.name == "conv1.weight")
    first.raw_data = (2 * numpy_helper.to_array(first)).tobytes()
    before = (tmp_path / "b.onnx").read_bytes()
    (tmp_path / "b.bin").unlink()
    save_apart(changed, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == before
    other = strzoo.compile(tmp_path / "b.onnx", 1, size=32, settings=shared)
    assert relative_error(other(x), expected) > 1e-2


@pytest.mark.slow
def test_the_report_says_how_each_layer_runs_and_what_it_should_gain(shared: Settings) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    with torch.no_grad():
        network[2].weight.view(-1)[: 9 * 32 * 64 * 9 // 10] = 0
        network[7].weight[:, :48] = 0
    compiled = strzoo.compile(network, 1, size=24, settings=shared)
    first, second, depthwise, head = compiled.report.layers
    assert (first.kind, first.density, first.form[:5]) == ("convolution", 100, "dense")
    assert first.gain == pytest.approx(1)
    assert (second.weights, second.nonzeros) == (18432, 1844)
    assert second.form.startswith("sparse")
    assert second.gain > 2
    assert (depthwise.kind, depthwise.gain) == ("depthwise", 1)
    assert (head.kind, head.weights, head.nonzeros) == ("linear", 640, 160)
    assert compiled.report.sparsity == pytest.approx(100 * (1 - (864 + 1844 + 576 + 160) / 20512))
    lines = compiled.describe().splitlines()
    assert len(lines) == 4 + 3
    assert lines[1].split()[:2] == [second.name, "10.00"]


def test_bad_arguments_and_models_are_named(tmp_path: Path, shared: Settings) -> None:
    model = load_model("small", 32)
    with pytest.raises(UsageError, match="threads is 0; it must be a whole number"):
        strzoo.compile(model, threads=0)
    with pytest.raises(UsageError, match="batch is -1"):
        strzoo.compile(model, batch=-1)
    with pytest.raises(UsageError, match="tune is nan"):
        strzoo.compile(model, tune=float("nan"))
    with pytest.raises(UsageError, match=r"size \[3, 4, 5, 6\] is neither"):
        strzoo.compile(model, size=(3, 4, 5, 6))
    with pytest.raises(UsageError, match="takes images of 3 channels, 1 are given"):
        strzoo.compile(model, size=(1, 32, 32), cache=False)
    with pytest.raises(UsageError, match="a dict is no model; give a model id"):
        strzoo.compile({})  # type: ignore[arg-type]
    with pytest.raises(StrzooError, match=r"missing\.onnx does not exist"):
        strzoo.compile(tmp_path / "missing.onnx")
    with pytest.raises(UnknownNameError, match="resnet51"):
        strzoo.compile("resnet51", settings=shared)
    unsupported = build("y = Sin(x)", output="float[N, 4, 7, 6] y")
    with pytest.raises(UsageError, match="cannot run Sin at"):
        strzoo.compile(unsupported, settings=shared, islands="none")
    for field in ("input", "output"):
        nothing = build("y = Constant <value_float = 1.0> ()", output="float y")
        nothing.graph.ClearField(field)
        with pytest.raises(UsageError, match=f"has no {field}, so there is nothing to compile"):
            strzoo.compile(nothing, settings=shared)
    vector = build("y = Relu (x)", output="float[N, 5] y", image="float[N, 5] x")
    onnx.save(vector, str(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match="takes 5, not images; square ones of 1 or 3 channels"):
        strzoo.predict(
            tmp_path / "a.onnx", np.zeros((8, 8, 3), np.uint8), engine="sparse", settings=shared
        )


def test_without_llvmlite_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    for attempt in (
        lambda: strzoo.compile("resnet50_str_90.23"),
        lambda: strzoo.predict(
            "resnet50_str_90.23", np.zeros((8, 8, 3), np.uint8), engine="sparse"
        ),
        lambda: strzoo.benchmark("resnet50_str_90.23", engines=["sparse"]),
    ):
        with pytest.raises(StrzooError, match=r"pip install 'llvmlite>=0.45'"):
            attempt()
