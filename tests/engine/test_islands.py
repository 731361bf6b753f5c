"""Networks that the engine cannot run alone: parts run in onnxruntime, and the results agree."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

import strzoo
from strzoo.engine.frontend import reading
from strzoo.engine.ir.parts import Island, Section
from strzoo.engine.runtime import steps
from strzoo.engine.storage.host import known_hardware
from strzoo.engine.storage.plan_files import read_plans, write_plans
from strzoo.errors import IntegrityError, StrzooError, UsageError
from tests.helpers.engine.models import build, images
from tests.helpers.engine.networks import export

MAP = "float[N, C, H, W] y"
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
SAME = "<pads = [1, 1, 1, 1]>"
# The engine runs both convolutions; of the nodes between them it has none.
BETWEEN = f"a = Conv {SAME} (x, w) s = Sin (a) b = Add (s, a) y = Conv {SAME} (b, w)"


def run_alone(model: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    """All outputs, by onnxruntime."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


def compile_parts(model: onnx.ModelProto, **options: Any) -> strzoo.SparseModel:
    return strzoo.compile(model, 1, cache=False, **{"islands": "missing", **options})


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "order"),
    [
        (BETWEEN, "ENE"),
        ("s = Sin (x) y = Relu (s)", "NE"),
        ("r = Relu (x) y = Sin (r)", "EN"),
        ("y = Sin (x)", "N"),
        # What only says how a value is read stays with what made it.
        (
            f"""a = Conv {SAME} (x, w) sh = Shape (a) n = Gather (sh, zero) v = Unsqueeze (n, axis)
            t = Concat <axis = 0> (v, rest) r = Reshape (a, t) p = Transpose <perm = [0, 2, 1]> (r)
            q = Sin (p) u = Transpose <perm = [0, 2, 1]> (q) z = Reshape (u, sh)
            y = Conv {SAME} (z, w)""",
            "ENE",
        ),
        # One island reads what two sections made, and the last section what both made.
        (
            f"""a = Conv {SAME} (x, w) s = Sin (a) b = Conv {SAME} (s, w) c = Cos (b)
            d = Mul (c, s) e = Add (a, d) y = Conv {SAME} (e, w)""",
            "ENENE",
        ),
    ],
)  # fmt: skip
def test_parts_agree_with_onnxruntime_for_any_batch(body: str, order: str) -> None:
    sizes = {"zero": np.array(0), "axis": np.zeros(1), "rest": np.array([4, 42])}
    known = {name: array.astype(np.int64) for name, array in sizes.items()}
    weights: dict[str, Any] = {"w": WEIGHT, **known}
    model = build(body, output=MAP, **{k: v for k, v in weights.items() if f"{k})" in body})
    compiled = compile_parts(model)
    engines = [part.engine for part in compiled.report.parts]
    assert engines == [{"E": "strzoo", "N": "onnxruntime"}[letter] for letter in order]
    for batch in (1, 3, 70):
        x = images((4, 7, 6), batch)
        assert_close(compiled(x), run_alone(model, x)[0])
    assert compiled(images((4, 7, 6), 1)[:0]).shape == (0, 4, 7, 6)


def test_the_report_says_what_runs_where_and_whether_it_is_worth_it() -> None:
    compiled = compile_parts(build(BETWEEN, output=MAP, w=WEIGHT))
    first, middle, last = compiled.report.parts
    assert (first.nodes, middle.nodes, last.nodes) == (1, 1, 2)
    assert middle.operators == {"Sin": 1}
    assert first.macs == last.macs == 4 * 4 * 9 * 7 * 6
    text = "\n".join(compiled.report.summary())
    assert "onnxruntime runs 1 of 3 parts: 1 of 4 nodes, 0.0 % of the MACs" in text
    assert "onnxruntime alone" in text
    # Two hand-overs for a few thousand multiplications do not pay.
    whole = compile_parts(build(BETWEEN, output=MAP, w=WEIGHT), islands="auto")
    assert [part.engine for part in whole.report.parts] == ["onnxruntime"]
    assert "nothing is gained by compiling" in "\n".join(whole.report.summary())
    with pytest.raises(UsageError, match="cannot run Sin at s"):
        compile_parts(build(BETWEEN, output=MAP, w=WEIGHT), islands="none")
    with pytest.raises(UsageError, match="islands is 'some'; it must be one of auto, missing"):
        compile_parts(build(BETWEEN, output=MAP, w=WEIGHT), islands="some")


def test_threads_of_onnxruntime_do_not_spin_on_into_what_is_measured_next() -> None:
    wide = np.random.default_rng(1).standard_normal((64, 64, 3, 3)).astype(np.float32)
    model = build(BETWEEN, image="float[N, 64, 28, 28] x", output=MAP, w=wide)
    compiled = strzoo.compile(model, 2, cache=False, islands="missing")  # whole, measured last
    assert compiled.report.alone > 0
    started = time.process_time()
    time.sleep(0.15)
    # A thread that spins on takes 0.06 s.
    assert time.process_time() - started < 0.03


def test_a_part_without_an_end_is_left_unmeasured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(steps, "PATIENCE", 0.2)
    loop = """
        a = Relu (x)
        y = Loop (most, go, a) <body = once (int64 i, bool more, float[N, C, H, W] before)
            => (bool again, float[N, C, H, W] after)
            { again = Identity (more) after = Sin (before) }>
    """
    most, go = np.array(1 << 62), np.array(True)
    with caplog.at_level("INFO", "strzoo"):
        compiled = compile_parts(build(loop, output=MAP, most=most, go=go))
    assert "is not measured" in caplog.text
    assert compiled.report.alone == 0


@pytest.mark.slow
def test_several_inputs_and_outputs_go_by_their_names() -> None:
    body = f"""a = Conv {SAME} (x, w) b = Add (a, z) g = GlobalAveragePool (b) f = Flatten (g)
        y = Gemm (f, m) t = Sub (m2, f) u = Sin (t)"""
    inputs = "float[N, 4, 7, 6] x, float[N, 4, 7, 6] z"
    outputs = "float[N, 4, 7, 6] b, float[N, 5] y"
    weights: dict[str, Any] = {"w": WEIGHT, "m": RANDOM.standard_normal((4, 5)).astype(np.float32)}
    x, z = images((4, 7, 6), 5), images((4, 7, 6), 5)[::-1].copy()
    native = build(body.split("t = ")[0], image=inputs, output=outputs, **weights)
    compiled = compile_parts(native, islands="none")
    assert not compiled.report.parts
    divided = build(
        body, image=inputs, output=outputs + ", float[N, 4] u", m2=np.ones(4, np.float32), **weights
    )
    for model, made in ((native, compiled), (divided, compile_parts(divided))):
        assert [port.name for port in made.inputs] == ["x", "z"]
        expected = run_alone(model, x, z)
        for found in (made(x, z), made({"z": z, "x": x})):
            assert list(found) == [value.name for value in model.graph.output]
            for array, wanted in zip(found.values(), expected, strict=True):
                assert_close(array, wanted)
    with pytest.raises(UsageError, match="1 inputs are given; the network takes 2"):
        compiled(x)
    with pytest.raises(UsageError, match=r"input 'z' of shape \[5, 4, 7, 5\]"):
        compiled(x, z[..., :5])
    with pytest.raises(UsageError, match="expected \\['x', 'z'\\]"):
        compiled({"x": x, "y": z})


@pytest.mark.slow
def test_what_is_made_of_bytes_and_tokens_is_the_engines(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 5),
    )  # fmt: skip
    file = tmp_path / "pixels.onnx"
    strzoo.export_onnx(network, file, input_size=12, preprocessing=True)
    tokens = build(
        "a = Gather (table, x) b = MatMul (a, w) y = Relu (b)",
        image="int64[N, 7] x", output="float[N, 7, 2] y",
        table=RANDOM.standard_normal((4, 3)).astype(np.float32),
        w=np.array([[1, 0], [0, 0], [0, 2]], np.float32),
    )  # fmt: skip
    random = np.random.default_rng(0)
    for model, most, shape in ((onnx.load(file), 256, (12, 12, 3)), (tokens, 4, (7,))):
        compiled = strzoo.compile(model, 1, islands="missing", cache=False)
        assert [part.engine for part in compiled.report.parts] == ["onnxruntime", "strzoo"]
        kind = compiled.inputs[0].dtype
        for batch in (1, 3):
            given = random.integers(0, most, (batch, *shape)).astype(kind)
            assert_close(compiled(given), run_alone(model, given)[0])


def test_a_batch_that_the_file_fixes_goes_through_islands_in_such_groups() -> None:
    model = build("s = Sin (x) y = Relu (s)", image="float[2, 4, 7, 6] x", output=MAP)
    compiled = compile_parts(model)
    x = images((4, 7, 6), 4)
    assert_close(compiled(x), np.maximum(np.sin(x), 0))
    with pytest.raises(UsageError, match="3 images; the network takes 2 at a time"):
        compiled(x[:3])


@pytest.mark.slow
def test_files_hold_islands_and_need_onnxruntime_only_to_run_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(BETWEEN, output=MAP, w=WEIGHT)
    file = compile_parts(model).save(tmp_path / "net.strz")
    loaded = strzoo.compile(file, cache=False)
    x = images((4, 7, 6), 3)
    assert_close(loaded(x), run_alone(model, x)[0])
    assert [part.engine for part in loaded.report.parts] == ["strzoo", "onnxruntime", "strzoo"]
    content = read_plans(file, known_hardware(None))
    assert content.division is not None
    first, middle, last = content.division.steps
    assert isinstance(first, Section)
    assert isinstance(middle, Island)
    doubled = dataclasses.replace(first, inputs=first.inputs * 2)
    unloadable = dataclasses.replace(middle, model=b"no")
    orders: dict[str, tuple[Section | Island, ...]] = {
        "is read before it is made": (middle, last, first),
        "other arrays than its section": (doubled, middle, last),
        "onnxruntime cannot load": (first, unloadable, last),
    }
    for problem, order in orders.items():
        damaged = dataclasses.replace(content.division, steps=order)
        path = tmp_path / "damaged.strz"
        write_plans(path, dataclasses.replace(content, division=damaged), force=True)
        with pytest.raises(IntegrityError, match=problem):
            strzoo.compile(path, cache=False)(x)
    again = strzoo.compile(file, cache=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StrzooError, match=r"which is not installed: .*pip install onnxruntime"):
        again(x)


@pytest.mark.slow
def test_of_a_transformer_only_attentions_own_products_are_left() -> None:
    network: Any = timm.create_model("test_vit", num_classes=7).eval()
    compiled = compile_parts(export(network, 160))
    outside = [part for part in compiled.report.parts if part.engine == "onnxruntime"]
    operators = [dict(part.operators) for part in outside]
    attention = {"MatMul": 2, "Softmax": 1, "Transpose": 1, "Reshape": 1}
    # Before its blocks, a token is put before those of each image.
    assert operators[1:] == [attention] * len(network.blocks)
    assert operators[0]["Concat"] == 1
    assert "MatMul" not in operators[0]
    x = images((3, 160, 160), 4)  # torch 2.6 exports a network of two at a time
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    assert_close(compiled(x), expected)


def test_what_reading_stumbles_over_is_left_to_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(builder: object, node: onnx.NodeProto) -> None:
        raise IndexError("axis -1 is out of bounds")

    monkeypatch.setitem(reading.OPERATORS, "Relu", stumble)
    model = build(
        f"a = Conv {SAME} (x, w) b = Relu (a) y = Conv {SAME} (b, w)", output=MAP, w=WEIGHT
    )
    x = images((4, 7, 6))
    compiled = compile_parts(model)
    assert_close(compiled(x), run_alone(model, x)[0])
    assert [part.engine for part in compiled.report.parts] == ["strzoo", "onnxruntime", "strzoo"]
    with pytest.raises(IntegrityError, match=r"Relu 'b' is malformed \(axis -1 is out of bounds"):
        compile_parts(model, islands="none")
