"""Constants are folded as onnxruntime computes them, at every opset, within limits of size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from strzoo.engine.frontend.constants import FOLDABLE, Constants
from strzoo.engine.frontend.read import read_graph
from strzoo.errors import IntegrityError, StrzooError
from tests.helpers.engine.models import assert_agrees, build

OPSETS = range(7, 23)
A = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 11.5
L = np.array([7, -7, 9, -4], np.int64)
M = np.array([2, 2, -4, -3], np.int64)
INT, FLOAT, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def axes_of(opset: int, *axes: int) -> tuple[list[Any], dict[str, Any]]:
    """Further inputs and attributes that give axes: an input from opset 13 on."""
    return ([np.array(axes, np.int64)], {}) if opset >= 13 else ([], {"axes": list(axes)})


def slice_of(
    opset: int, starts: list[int], ends: list[int], axes: list[int] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    parts = {"starts": starts, "ends": ends} | ({"axes": axes} if axes else {})
    if opset < 10:
        return [], parts
    return [np.array(part, np.int64) for part in parts.values()], {}


def steps(starts: list[int], ends: list[int], axes: list[int], by: list[int]) -> list[Any]:
    return [np.array(part, np.int64) for part in (starts, ends, axes, by)]


def cases(opset: int) -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """Operator, inputs and attributes; names say what is special."""
    first, last = axes_of(opset, 0), axes_of(opset, 0, 4)
    tail = slice_of(opset, [0, -2], [2**31 - 1, -1], [1, 2])
    plain = slice_of(opset, [1, 0], [2, 1000])
    one = A[:1]
    found: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
        "Concat": ("Concat", [A, A[:, :1]], {"axis": 1}),
        "Concat of integers": ("Concat", [L, M], {"axis": 0}),
        "Gather": ("Gather", [A, np.array([[2, 0], [1, 1]])], {"axis": 1}),
        "Gather of a scalar": ("Gather", [L, np.int64(2)], {}),
        "Identity": ("Identity", [A], {}),
        "Reshape": ("Reshape", [A, np.array([0, -1])], {}),
        "Flatten": ("Flatten", [A], {"axis": 2}),
        "Slice": ("Slice", [A, *plain[0]], plain[1]),
        "Slice from the end": ("Slice", [A, *tail[0]], tail[1]),
        "Squeeze": ("Squeeze", [one, *first[0]], first[1]),
        "Squeeze of all": ("Squeeze", [one], {}),
        "Transpose": ("Transpose", [A], {"perm": [2, 0, 1]}),
        "Transpose by default": ("Transpose", [A], {}),
        "Unsqueeze": ("Unsqueeze", [A, *last[0]], last[1]),
        "Unsqueeze of a scalar": ("Unsqueeze", [np.int64(3), *first[0]], first[1]),
        "Cast to integers": ("Cast", [A], {"to": INT}),
        "Cast to halves": ("Cast", [A], {"to": onnx.TensorProto.FLOAT16}),
        "Cast to bool": ("Cast", [L], {"to": BOOL}),
        "Cast of integers": ("Cast", [L], {"to": FLOAT}),
        "Add": ("Add", [A, A[0]], {}),
        "Add of integers": ("Add", [L, np.int64(3)], {}),
        "Sub": ("Sub", [A[0], A], {}),
        "Mul": ("Mul", [A, np.float32(3)], {}),
        "Div": ("Div", [A, np.float32(3)], {}),
        "Div of integers": ("Div", [L, M], {}),
        "Abs": ("Abs", [A], {}),
        "Neg": ("Neg", [A], {}),
        "Ceil": ("Ceil", [A], {}),
        "Floor": ("Floor", [A], {}),
        "Reciprocal": ("Reciprocal", [A], {}),
        "Sqrt": ("Sqrt", [np.abs(A)], {}),
        "Pow": ("Pow", [np.abs(A), np.float32(1.5)], {}),
        "Max": ("Max", [A, A[::-1].copy(), A[1]] if opset >= 8 else [A, A[::-1].copy()], {}),
        "Min": ("Min", [A, A[1:]] if opset >= 8 else [A, A[::-1].copy()], {}),
        "Sum": ("Sum", [A, A[::-1].copy(), A], {}),
        "Equal": ("Equal", [L, M], {}),
        "Constant": ("Constant", [], {"value": numpy_helper.from_array(A)}),
    }  # fmt: skip
    vectors = [np.abs(A[0, :, 0]) + number for number in range(4)]
    mean = ([np.array([1, 2])], {}) if opset >= 18 else ([], {"axes": [1, 2]})
    total = ([np.array([-1])], {}) if opset >= 13 else ([], {"axes": [-1 if opset >= 11 else 2]})
    found |= {
        "BatchNormalization": ("BatchNormalization", [A, *vectors], {"epsilon": 0.1}),
        "ReduceMean": ("ReduceMean", [A, *mean[0]], {**mean[1], "keepdims": 0}),
        "ReduceMean of all": ("ReduceMean", [A], {}),
        "ReduceSum": ("ReduceSum", [A, *total[0]], total[1]),
    }
    if opset >= 10:
        bytes_ = np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 4)
        scale, zero = np.float32(0.3), np.int8(3)
        found["DequantizeLinear"] = ("DequantizeLinear", [bytes_, scale, zero], {})
    if opset >= 13:
        each = [bytes_, np.array([0.1, 2, 0.7], np.float32), np.array([1, -2, 3], np.int8)]
        found["DequantizeLinear of channels"] = ("DequantizeLinear", each, {"axis": 1})
    if opset >= 8:
        found["Expand"] = ("Expand", [one, np.array([5, 1, 3, 1])], {})
        found["Sum, broadcast"] = ("Sum", [A, A[0], A[:, :1]], {})
    if opset >= 9:
        value = numpy_helper.from_array(np.array([7], np.int64))
        found["Where"] = ("Where", [A > 0, A, np.float32(0)], {})
        found["ConstantOfShape"] = ("ConstantOfShape", [np.array([2, 3])], {"value": value})
        found["ConstantOfShape by default"] = ("ConstantOfShape", [np.array([4])], {})
    if opset >= 10:
        found |= {
            "Slice with steps": ("Slice", [A, *steps([0, 3], [2, 0], [1, 2], [2, -1])], {}),
            "Slice backwards": ("Slice", [A, *steps([-1], [-(2**63)], [2], [-2])], {}),
            "Slice backwards from outside": ("Slice", [A, *steps([99], [-99], [-1], [-1])], {}),
            "Slice of nothing": ("Slice", [A, *steps([3], [1], [2], [1])], {}),
            "Slice that starts before": ("Slice", [A, *steps([-99], [2], [2], [1])], {}),
        }
    if opset >= 11:
        minus = axes_of(opset, -1)
        found |= {
            "Range": ("Range", [np.int64(3), np.int64(-9), np.int64(-5)], {}),
            "Range of floats": ("Range", [np.float32(1), np.float32(3.1), np.float32(0.5)], {}),
            "Gather from the end": ("Gather", [A, np.array([-1])], {"axis": -1}),
            "Concat along the last": ("Concat", [A, A], {"axis": -1}),
            "Unsqueeze behind": ("Unsqueeze", [A, *minus[0]], minus[1]),
            "Flatten from the end": ("Flatten", [A], {"axis": -1}),
        }
    if opset >= 12:
        found["Constant of integers"] = ("Constant", [], {"value_ints": [3, 4]})
        found["Constant of a float"] = ("Constant", [], {"value_float": 0.5})
        found["Pow of integers"] = ("Pow", [np.abs(L), np.int64(2)], {})
    if opset >= 14:
        empty = np.zeros((0, 3), np.float32)
        found["Reshape to zero"] = ("Reshape", [empty, np.array([3, 0])], {"allowzero": 1})
    return found


@pytest.mark.parametrize("opset", OPSETS)
def test_every_folded_operator_computes_what_onnxruntime_does(opset: int) -> None:
    tried = set()
    for name, (kind, inputs, attributes) in cases(opset).items():
        arrays = [np.asarray(value) for value in inputs]
        node = helper.make_node(kind, [f"i{n}" for n in range(len(arrays))], ["y"], **attributes)
        graph = helper.make_graph(
            [node], "g", [], [helper.make_empty_tensor_value_info("y")],
            [numpy_helper.from_array(array, f"i{n}") for n, array in enumerate(arrays)],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0]
        constants = Constants(graph)
        assert constants.fold(node, opset), name
        found = constants["y"]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        np.testing.assert_allclose(found, expected, rtol=2e-6, err_msg=name)
        tried.add(kind)
    later = {"Expand": 8, "Where": 9, "ConstantOfShape": 9, "Range": 11, "DequantizeLinear": 10}
    assert tried == {kind for kind in FOLDABLE if opset >= later.get(kind, 0)}


def bomb(body: str, constants: dict[str, Any]) -> onnx.ModelProto:
    return build(f"{body} y = Add (x, b)", output="float[N, A, B, C] y", opset=13, **constants)


DOUBLING = " ".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(40))


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (f"{DOUBLING} b = Identity (c40)", {"c0": np.ones(2, np.float32)}),
        ("b = ConstantOfShape (s)", {"s": np.array([1 << 40])}),
        ("b = ConstantOfShape (s)", {"s": np.array([1 << 20] * 3)}),
        ("b = Expand (o, s)", {"o": np.ones(1, np.float32), "s": np.array([1 << 33])}),
        ("b = Range (z, m, o)", {"z": np.int64(0), "m": np.int64(2**62), "o": np.int64(1)}),
        ("b = Range (z, m, o)", {"z": np.float32(0), "m": np.float32(1), "o": np.float32(1e-30)}),
        ("b = Range (z, m, z)", {"z": np.int64(0), "m": np.int64(9)}),
        ("b = Add (r, c)", {"r": np.ones((1 << 16, 1), np.float32),
                            "c": np.ones((1, 1 << 16), np.float32)}),
        ("b = Gather (d, i)", {"d": np.ones((1, 1 << 16), np.float32),
                               "i": np.zeros(1 << 16, np.int64)}),
        ("b = ConstantOfShape (s)", {"s": np.array([-1])}),
        ("b = Reshape (o, s)", {"o": np.ones(1, np.float32), "s": np.array([1 << 62, 4])}),
        ("b = Unsqueeze (o, s)", {"o": np.ones(1, np.float32), "s": np.arange(100)}),
        ("b = Div (o, z)", {"o": np.int64(1), "z": np.int64(0)}),
    ],
)  # fmt: skip
def test_constants_do_not_unfold_beyond_the_limits(
    body: str, constants: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRZOO_MAX_BYTES", "64M")
    with pytest.raises(IntegrityError) as caught:
        read_graph(bomb(body, constants), source="net.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "image"),
    [
        ("y = AveragePool <kernel_shape = [30000, 30000], pads = [29999, 29999, 0, 0]> (x)", None),
        ("y = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 4611686018427387904, 0]> (x)", None),
        ("y = Conv <pads = [20000, 20000, 20000, 20000]> (x, w)", None),
        ("y = Conv <dilations = [10000, 10000], pads = [9999, 9999, 9999, 9999]> (x, w)", None),
        ("y = Conv <pads = [9223372036854775807, 0, 0, 0]> (x, w)", None),
        ("p = Pad (x, big) y = Relu (p)", None),
        ("y = Pad <mode = \"edge\"> (x, big)", None),
        ("y = Expand (x, wide)", None),
        ("y = DepthToSpace <blocksize = 4611686018427387904> (x)", None),
        ("y = ConvTranspose <strides = [1048576, 1048576]> (x, w)", None),
        ("y = Resize <mode = \"linear\"> (x, , , wide)", None),
        ("y = Relu (x)", "float[N, 4, 2147483648, 2147483648] x"),
    ],
)  # fmt: skip
def test_windows_and_images_do_not_exceed_the_limits(body: str, image: str | None) -> None:
    constants: dict[str, Any] = {"w": np.ones((4, 4, 3, 3), np.float32),
                 "big": np.array([0, 0, 0, 0, 0, 0, 1 << 40, 0]),
                 "wide": np.array([1, 4, 1 << 40, 1 << 40])}  # fmt: skip
    model = build(
        body, output="float[N, A, B, C] y", image=image or "float[N, 4, 7, 6] x", **constants
    )
    with pytest.raises(StrzooError) as caught:
        read_graph(model, source="net.onnx")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather <axis = 2> (x, many)",
        "y = Gather <axis = 1> (x, many)",
        "t = Transpose <perm = [0, 2, 3, 1]> (x) y = Gather <axis = 1> (t, many)",
    ],
)
def test_repeated_numbers_do_not_exceed_the_limits(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(body, output="float[N, A, B, C] y", many=np.zeros(1 << 14, np.int64))
    read_graph(model)
    monkeypatch.setenv("STRZOO_MAX_ELEMENTS", "100000")
    with pytest.raises(StrzooError, match="STRZOO_MAX_ELEMENTS"):
        read_graph(model)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 18])
def test_torchs_view_of_the_batch_is_understood_at_every_opset(opset: int) -> None:
    unsqueeze = "u = Unsqueeze (g, zero)" if opset >= 13 else "u = Unsqueeze <axes = [0]> (g)"
    body = f"""p = GlobalAveragePool (x) s = Shape (p) g = Gather <axis = 0> (s, z) {unsqueeze}
               t = Concat <axis = 0> (u, m) r = Reshape (p, t) y = Gemm <transB = 1> (r, w, b)"""
    model = build(
        body,
        opset=opset,
        z=np.int64(0),
        zero=np.array([0]),
        m=np.array([-1]),
        w=np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32),
        b=np.ones(5, np.float32),
    )
    if opset < 13:
        del model.graph.initializer[1]
    assert_agrees(model)
