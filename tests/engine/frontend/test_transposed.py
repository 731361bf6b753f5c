"""ConvTranspose, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import strzoo
from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import Concat, Convolution, Layer, Rearrange
from strzoo.engine.passes import simplify
from strzoo.errors import StrzooError
from tests.helpers.engine.models import assert_agrees, build, images, run_onnxruntime

RANDOM = np.random.default_rng(5)
MAP = "float[N, A, B, C] y"
PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))


def transposed(weight: np.ndarray, fields: dict[str, Any], rest: str = "") -> ModelProto:
    shown = ", ".join(
        f'{name} = "{v}"' if isinstance(v, str) else f"{name} = {[*v] if np.ndim(v) else v}"
        for name, v in fields.items()
    )
    group = fields.get("group", 1)
    bias = RANDOM.standard_normal(weight.shape[1] * group).astype(np.float32)
    body = f"{'c' if rest else 'y'} = ConvTranspose <{shown}> (x, w, b) {rest}"
    return build(body, output=MAP, w=weight, b=bias)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_attributes_compute_what_onnxruntime_does(data: st.DataObject) -> None:
    kernel, strides = data.draw(PAIR), data.draw(PAIR)
    dilations = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (3, 2)]))
    group = data.draw(st.sampled_from([1, 2, 4]))
    extra = [data.draw(st.integers(0, stride - 1)) for stride in strides]
    fields: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    fields["output_padding"] = extra
    mode = data.draw(st.sampled_from(["pads", "pads", "auto", "shape"]))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if mode == "pads":
        fields["pads"] = [data.draw(st.integers(0, span)) for span in (*spans, *spans)]
    elif mode == "auto":
        fields["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        whole = [
            s * (n - 1) + e + span
            for s, n, e, span in zip(strides, (7, 6), extra, spans, strict=True)
        ]
        fields["output_shape"] = [data.draw(st.integers(max(n - 3, 1), n)) for n in whole]
    weight = RANDOM.standard_normal((4, data.draw(st.integers(1, 3)), *kernel)).astype(np.float32)
    weight[RANDOM.random(weight.shape) < data.draw(st.sampled_from([0.3, 0.7]))] = 0
    model = transposed(weight, fields)
    sides = np.reshape(fields.get("pads", [0] * 4), (2, 2)).sum(0)
    made = [
        s * (n - 1) + e + span - cut
        for s, n, e, span, cut in zip(strides, (7, 6), extra, spans, sides, strict=True)
    ]
    assume(min(made) > 0)
    if str(fields.get("auto_pad")).startswith("SAME"):  # a result that windows do not reach
        assume(all(n >= s * size for n, s, size in zip(made, strides, (7, 6), strict=True)))
    assert_agrees(model)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_kernels_put_every_phase_in_its_place(lanes: int) -> None:
    weight = RANDOM.standard_normal((4, 6, 3, 3)).astype(np.float32)
    fields = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    model = transposed(weight, fields, "r = Relu (c) y = MaxPool <kernel_shape = [2, 2]> (r)")
    x = images((4, 7, 6), 5)
    found = strzoo.compile(model, cache=False, islands="none", lanes=lanes)(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


def test_what_follows_is_fused_into_the_convolution() -> None:
    def kinds(fields: dict[str, Any], rest: str) -> list[type[Layer]]:
        weight = RANDOM.standard_normal((4, 6, 3, 3)).astype(np.float32)
        model = transposed(weight, fields, rest)
        assert_agrees(model)
        return [type(layer) for layer in simplify(read_graph(model)).layers]

    after = """k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> ()
        n = BatchNormalization (c, k, k, k, k) y = Relu (n)"""
    assert kinds({"strides": [3, 3]}, after) == [Convolution, Rearrange]
    phases = [Convolution] * 6
    assert kinds({"strides": [2, 3]}, after) == [*phases, Concat, Rearrange]
    assert kinds({"pads": [1, 1, 1, 1]}, after) == [Convolution]


@pytest.mark.parametrize(
    ("fields", "shape", "said"),
    [
        ({"strides": [2, 2], "pads": [9, 9, 9, 9]}, (4, 1, 2, 2), "without pixels"),
        ({"strides": [10**6, 10**6]}, (4, 1, 2, 2), "STRZOO_MAX_ELEMENTS"),
        ({"group": 3}, (4, 1, 2, 2), "does not fit 4 channels"),
        ({"strides": [0, 1]}, (4, 1, 2, 2), "below 1"),
        ({"output_shape": [99, 99]}, (4, 1, 2, 2), "larger than its windows"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], shape: Any, said: str) -> None:
    with pytest.raises(StrzooError) as caught:
        read_graph(transposed(np.ones(shape, np.float32), fields))
    assert said in str(caught.value)
