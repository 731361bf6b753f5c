"""Networks in parts, and their images: any number, apart or not, in one process or a forked one."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("llvmlite")

import strzoo
from strzoo.engine.runtime.steps import MOST_AT_ONCE
from strzoo.errors import UsageError
from tests.engine.test_islands import MAP, SAME, WEIGHT, assert_close, compile_parts, run_alone
from tests.helpers.engine.models import build, images
from tests.helpers.forking import holds_in_fork

ZERO = np.zeros(1, np.int64)
# What onnxruntime makes of `a` [N, 4, 7, 6] before the engine goes on: of all images together, but
# for the last two.
MIXED = {
    "mean": "m = ReduceMean (a, zero) b = Sub (a, m)",
    "softmax": "b = Softmax <axis = 0> (a)",
    "sum so far": "b = CumSum (a, first)",
    "apart": "s = Sin (a) b = Add (s, a)",
    "apart, by a channel": "b = CumSum (a, second)",
}


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("mode", ["missing", "auto"])
def test_what_mixes_images_sees_all_of_them(kind: str, mode: str) -> None:
    body = f"a = Conv {SAME} (x, w) {MIXED[kind]} y = Conv {SAME} (b, w)"
    known = {"zero": ZERO, "first": np.array(0), "second": np.array(1)}
    used: dict[str, Any] = {k: v for k, v in known.items() if f"{k})" in body}
    model = build(body, output=MAP, w=WEIGHT, **used)
    compiled = compile_parts(model, islands=mode)
    if mode == "missing":
        assert compiled.report.parts[0].engine == "strzoo"
    session = strzoo.InferenceSession(model.SerializeToString())
    for batch in (2, MOST_AT_ONCE + 1, 2 * MOST_AT_ONCE + 2):
        x = images((4, 7, 6), batch)
        (expected,) = run_alone(model, x)
        assert_close(compiled(x), expected)
        assert_close(session.run(None, {"x": x})[0], expected)


@pytest.mark.parametrize("mode", ["missing", "auto"])
def test_shapes_that_onnx_misjudges_leave_the_network_to_onnxruntime(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    # ONNX says 4 x 4 pixels, onnxruntime makes 4 x 3: the window that begins behind the map.
    pool = "p, i = MaxPool <kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1> (a)"
    body = f"a = Conv {SAME} (x, w) {pool} y = Conv {SAME} (p, w)"
    model = build(body, output=f"{MAP}, int64[N, C, H, W] i", w=WEIGHT)
    compiled = compile_parts(model, islands=mode)
    x = images((4, 7, 6))
    expected = run_alone(model, x)
    found = compiled(x)
    assert_close(found["y"], expected[0])
    np.testing.assert_array_equal(found["i"], expected[1])
    assert [part.engine for part in compiled.report.parts] == ["onnxruntime"]
    if mode == "missing":
        assert "runs in onnxruntime as a whole: a part of the network takes float32" in caplog.text


def test_inputs_of_different_numbers_of_images_are_refused() -> None:
    body = f"a = Conv {SAME} (x, w) y = Mul (a, z)"
    model = build(body, image="float[N, 4, 7, 6] x, float[N, 4, 1, 1] z", output=MAP, w=WEIGHT)
    compiled = strzoo.compile(model, 1, cache=False, islands="none")
    session = strzoo.InferenceSession(model.SerializeToString())
    for first, second in ((3, 1), (3, 0), (0, 3)):
        x, z = images((4, 7, 6), first or 1)[:first], images((4, 1, 1), second or 1)[:second]
        shapes = rf"'x' \[{first}, 4, 7, 6\], 'z' \[{second}, 4, 1, 1\]"
        with pytest.raises(UsageError, match=f"equally many images; they are {shapes}"):
            compiled(x, z)
        with pytest.raises(UsageError, match="equally many images"):
            session.run(None, {"x": x, "z": z})
    assert compiled(images((4, 7, 6), 1)[:0], images((4, 1, 1), 1)[:0]).shape == (0, 4, 7, 6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_of_its_parents_parts() -> None:
    model = build(
        f"a = Conv {SAME} (x, w) s = Sin (a) y = Conv {SAME} (s, w)", output=MAP, w=WEIGHT
    )
    compiled = strzoo.compile(model, 2, cache=False, islands="missing")
    x = images((4, 7, 6))
    expected = compiled(x)
    assert holds_in_fork(lambda: np.array_equal(compiled(x), expected))
    assert np.array_equal(compiled(x), expected)


def test_an_input_without_a_shape_is_named() -> None:
    model = build(f"y = Conv {SAME} (x, w)", output=MAP, w=WEIGHT)
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    model.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(UsageError, match=r"declares no shape of input 'x'; declare it.*\[N, 3, H"):
        strzoo.compile(model, 1, cache=False)
