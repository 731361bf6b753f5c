"""ONNX files in every form that weights take, and those that would hurt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import strzoo
from strzoo.errors import IntegrityError, StrzooError
from strzoo.onnx.files import parse_onnx, read_onnx
from strzoo.onnx.fused import expand_fused
from strzoo.onnx.sessions import open_session
from strzoo.onnx.weights import weighted_nodes
from tests.helpers.hugging_face import store_as_snapshot

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)
WEIGHT[RNG.random(WEIGHT.shape) < 0.9] = 0
ZEROS = int((WEIGHT == 0).sum())
_FOREIGN = ("vendor", "com.microsoft")
IMAGES = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)


def build(
    *front: onnx.NodeProto, weight: str = "w", inputs: tuple[str, ...] = (), **tensors: Any
) -> onnx.ModelProto:
    """A convolution of `weight`, ReLU, a pool; `front` come first, `tensors` are initializers."""
    nodes = [
        *front,
        helper.make_node("Conv", ["x", weight], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    listed = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])]
    listed += [helper.make_tensor_value_info(n, TensorProto.FLOAT, WEIGHT.shape) for n in inputs]
    graph = helper.make_graph(
        nodes, "g", listed, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in tensors.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in _FOREIGN)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8)


def sparse(indices: np.ndarray, values: np.ndarray, dims: list[int]) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices, "i"), dims
    )


def with_sparse(tensor: onnx.SparseTensorProto) -> onnx.ModelProto:
    model = build()
    model.graph.sparse_initializer.append(tensor)
    return model


def node(kind: str, inputs: list[str], made: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [made], **attributes)


FLAT = np.flatnonzero(WEIGHT).astype(np.int64)
VALUES = WEIGHT.ravel()[FLAT]
FORMS = {
    "an initializer": build(w=WEIGHT),
    "also listed as an input": build(w=WEIGHT, inputs=("w",)),
    "sparse, by flat index": with_sparse(sparse(FLAT, VALUES, [8, 3, 3, 3])),
    "sparse, by coordinates": with_sparse(
        sparse(np.argwhere(WEIGHT).astype(np.int64), VALUES, [8, 3, 3, 3])
    ),
    "a Constant node": build(
        node("Constant", [], "w", value=numpy_helper.from_array(WEIGHT)),
    ),
    "a sparse Constant node": build(
        helper.make_node("Constant", [], ["w"], sparse_value=sparse(FLAT, VALUES, [8, 3, 3, 3]))
    ),
    "fp16": build(node("Cast", ["h"], "w", to=1), h=WEIGHT.astype(np.float16)),
    "bf16": build(node("Cast", ["h"], "w", to=1), h=WEIGHT.astype(ml_dtypes.bfloat16)),
    "through Identity": build(node("Identity", ["v"], "w"), v=WEIGHT),
    "through Reshape": build(
        node("Reshape", ["v", "s"], "w"), v=WEIGHT.reshape(8, 27), s=np.array([8, 3, 3, 3])
    ),
    "through Transpose (tf2onnx)": build(
        node("Transpose", ["v"], "w", perm=[3, 2, 0, 1]), v=WEIGHT.transpose(2, 3, 1, 0).copy()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_counted_and_run_in_whatever_form_they_are_stored(
    form: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(FORMS[form], path)
    report = strzoo.inspect_onnx(path).report
    assert (report.weights, report.nonzeros) == (216, 216 - ZEROS)
    # 16 x 16 positions; the pool counts its input once
    assert report.dense_macs == 216 * 256 + 8 * 256
    assert report.incomplete == ()
    if form == "a sparse Constant node":
        return  # onnxruntime refuses it for convolutions; the dense form is the same network
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"x": IMAGES})[0]
    found = strzoo.compile(path, cache=False)(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_graph_without_weights_has_zero_totals_and_a_note(tmp_path: Path) -> None:
    image: list[str | int | None] = ["N", 3, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", 1, image)],
        [helper.make_tensor_value_info("y", 1, image)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "none.onnx")
    report = strzoo.inspect_onnx(tmp_path / "none.onnx").report
    assert (report.weights, report.nonzeros, report.sparsity, report.dense_macs) == (0, 0, 0, 0)
    assert any("no convolution or linear" in note for note in report.notes)


# --- files beside the model


def external(path: Path, location: str, **entries: str) -> Path:
    model = build(w=WEIGHT)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_weights_beside_the_file_are_read_by_every_reader(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/w.bin").write_bytes(b"12345678" + WEIGHT.tobytes())
    for entries in ({"offset": "8"}, {"offset": "8", "length": str(WEIGHT.nbytes)}):
        path = external(tmp_path / "m.onnx", "deep/w.bin", **entries)
        (layer,) = weighted_nodes(read_onnx(path))
        np.testing.assert_array_equal(layer.weight, WEIGHT)
        assert strzoo.inspect_onnx(path).report.nonzeros == 216 - ZEROS
        expected = open_session(path).run(None, {"x": IMAGES})[0]
        np.testing.assert_allclose(strzoo.compile(path, cache=False)(IMAGES), expected, atol=1e-5)


def test_weights_of_a_model_in_hugging_faces_cache_are_read(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "w.bin").write_bytes(WEIGHT.tobytes())
    expected = open_session(external(plain / "m.onnx", "w.bin")).run(None, {"x": IMAGES})[0]
    path = store_as_snapshot(plain, tmp_path / "cache") / "m.onnx"
    assert strzoo.inspect_onnx(path).report.nonzeros == 216 - ZEROS
    np.testing.assert_array_equal(open_session(path).run(None, {"x": IMAGES})[0], expected)
    np.testing.assert_allclose(strzoo.compile(path, cache=False)(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("../w.bin", {}),
        ("{folder}/w.bin", {}),
        ("/dev/zero", {}),
        ("link", {}),
        ("folder/w.bin", {}),
        ("fifo", {}),
        ("none", {}),
        ("", {}),
        ("short", {}),
        ("whole", {"offset": "4"}),
        ("whole", {"length": "1000000000000"}),
        ("whole", {"length": "-1"}),
        ("whole", {"offset": "²"}),
        ("whole", {"offset": "9" * 5000}),
    ],
)
def test_files_that_are_not_the_models_own_are_refused(
    location: str, entries: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "whole").write_bytes(WEIGHT.tobytes())
    (folder / "short").write_bytes(WEIGHT.tobytes()[:-1])
    (folder / "link").symlink_to(tmp_path / "w.bin")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    path = external(folder / "m.onnx", location.format(folder=tmp_path), **entries)
    for read in (read_onnx, strzoo.inspect_onnx, lambda p: strzoo.compile(p, cache=False)):
        with pytest.raises(StrzooError) as caught:
            read(path)
        assert "m.onnx" in str(caught.value)
    with pytest.raises(StrzooError):
        open_session(path)


# --- sizes that are claimed, circles and doublings


def test_claims_are_checked_before_they_are_believed(tmp_path: Path) -> None:
    huge = sparse(FLAT, VALUES, [1 << 20, 1 << 20])
    wrong = [
        (with_sparse(huge), "elements, above the limit"),
        (with_sparse(sparse(FLAT + 200, VALUES, [8, 3, 3, 3])), "do not fit it"),
        (with_sparse(sparse(-FLAT - 1, VALUES, [8, 3, 3, 3])), "do not fit it"),
        (with_sparse(sparse(FLAT[:-1], VALUES, [8, 3, 3, 3])), "do not fit it"),
    ]
    claimed = build(w=WEIGHT)
    claimed.graph.initializer[0].dims[:] = [1 << 40, 3, 3, 3]
    wrong.append((claimed, "elements, above the limit"))
    negative = build(w=WEIGHT)
    negative.graph.initializer[0].dims[:] = [-8, 3, 3, 3]
    wrong.append((negative, "has the shape"))
    for model, said in wrong:
        onnx.save(model, tmp_path / "m.onnx")
        for read in (strzoo.inspect_onnx, lambda p: strzoo.compile(p, cache=False)):
            with pytest.raises(IntegrityError, match=said):
                read(tmp_path / "m.onnx")


def functions(bodies: dict[str, list[str]]) -> bytes:
    """A model whose functions each call those in a list, one after the other."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    made = []
    for name, called in bodies.items():
        values = ["a", *(f"v{i}" for i in range(len(called) - 1)), "b"]
        nodes = [
            helper.make_node(
                kind, [values[i]], [values[i + 1]], domain="" if kind == "Relu" else "f"
            )
            for i, kind in enumerate(called)
        ]
        made.append(helper.make_function("f", name, ["a"], ["b"], nodes, opsets))
    image: list[str | int | None] = ["N", 3, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("f0", ["x"], ["y"], domain="f")], "g",
        [helper.make_tensor_value_info("x", 1, image)],
        [helper.make_tensor_value_info("y", 1, image)],
    )  # fmt: skip
    content: bytes = helper.make_model(
        graph, functions=made, opset_imports=opsets, ir_version=8
    ).SerializeToString()
    return content


def test_functions_are_inlined_unless_they_circle_or_double() -> None:
    plain = parse_onnx(functions({"f0": ["f1", "f1"], "f1": ["Relu", "Relu"]}), "m.onnx")
    assert [n.op_type for n in plain.graph.node] == ["Relu"] * 4
    for bodies, said in (
        ({"f0": ["f0"]}, "calls itself"),
        ({"f0": ["f1"], "f1": ["Relu", "f0"]}, "calls itself"),
        ({f"f{i}": [f"f{i + 1}"] * 2 for i in range(40)} | {"f40": ["Relu"]}, "above the limit"),
        ({f"f{i}": [f"f{i + 1}"] for i in range(100)} | {"f100": ["Relu"]}, "levels, above"),
    ):
        with pytest.raises(IntegrityError, match=said):
            parse_onnx(functions(bodies), "m.onnx")


def test_weights_computed_in_circles_or_by_long_chains_end_in_one_line(tmp_path: Path) -> None:
    circle = build(node("Identity", ["w"], "v"), node("Identity", ["v"], "w"))
    scales = build(node("DequantizeLinear", ["w", "w"], "w"))
    chain = [node("Identity", [f"v{i}"], f"v{i + 1}") for i in range(5000)]
    long = build(*chain, weight="v5000", v0=WEIGHT)
    doubling = [node("DequantizeLinear", [f"v{i}", f"v{i}", f"v{i}"], f"v{i + 1}")
                for i in range(100)]  # fmt: skip
    doubled = build(*doubling, weight="v100", v0=WEIGHT)
    for model in (circle, scales, long, doubled):
        onnx.save(model, tmp_path / "m.onnx")
        try:
            strzoo.inspect_onnx(tmp_path / "m.onnx")
        except StrzooError as error:
            assert "\n" not in str(error)  # noqa: PT017


SEEDS = [model.SerializeToString() for model in FORMS.values()] + [
    functions({"f0": ["f1", "f1"], "f1": ["Relu", "Relu"]})
]


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_file_is_inspected_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.onnx").write_bytes(content)
    try:
        json.dumps(strzoo.inspect_onnx(tmp_path / "m.onnx").to_dict())
    except StrzooError as error:
        assert "\n" not in str(error)  # noqa: PT017


# --- fused and vendor operators


def optimised(model: onnx.ModelProto, path: Path, level: str) -> np.ndarray:
    """What onnxruntime saves after its optimisations; its outputs for `IMAGES`."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}"
    )
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    output: np.ndarray = session.run(None, {"x": IMAGES})[0]
    return output


def fusable() -> onnx.ModelProto:
    """Convolutions with Relu, Clip and a sum, and a linear with Relu."""
    rng = np.random.default_rng(3)
    tensors = {
        "w1": rng.standard_normal((8, 3, 3, 3)), "b1": rng.standard_normal(8),
        "w2": rng.standard_normal((8, 8, 3, 3)), "w3": rng.standard_normal((8, 2, 3, 3)),
        "w4": rng.standard_normal((5, 8)), "b4": rng.standard_normal(5),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Clip", ["c", "low", "high"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["e"], pads=[1] * 4, group=4),
        helper.make_node("Add", ["e", "b"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("GlobalAveragePool", ["g"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", "w4", "b4"], ["j"], transB=1),
        helper.make_node("Relu", ["j"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, ["N", 5])],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow
def test_fused_operators_are_counted_and_run_as_what_they_are(tmp_path: Path) -> None:
    model = fusable()
    expected = optimised(model, tmp_path / "fused.onnx", "EXTENDED")
    onnx.save(model, tmp_path / "plain.onnx")
    kinds = {n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert {"FusedConv", "FusedGemm"} <= kinds
    plain = strzoo.inspect_onnx(tmp_path / "plain.onnx").report
    fused = strzoo.inspect_onnx(tmp_path / "fused.onnx")
    # by hand: positions of a map times the weights
    assert plain.weights == 216 + 576 + 144 + 40
    assert plain.dense_macs == 64 * (216 + 576 + 144) + 40 + 8 * 64
    report = fused.report
    assert (report.weights, report.dense_macs, report.params, report.incomplete) == (
        *(plain.weights, plain.dense_macs, plain.params), ())  # fmt: skip
    assert fused.operators["com.microsoft.FusedConv"] >= 1
    written_out = expand_fused(read_onnx(tmp_path / "fused.onnx"))
    session = onnxruntime.InferenceSession(written_out.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": IMAGES})[0], expected, atol=1e-4)
    found = strzoo.compile(tmp_path / "fused.onnx", cache=False)(IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (None, "com.microsoft.nchwc.Conv"),
        (build(helper.make_node("Mystery", ["x", "u"], ["z"], domain="vendor"), w=WEIGHT, u=WEIGHT),
         "vendor.Mystery"),
        (build(helper.make_node("EPContext", ["x"], ["z"], domain="com.microsoft",
                                ep_cache_context=b"x" * 5000), w=WEIGHT),
         "com.microsoft.EPContext"),
        (build(node("Mul", ["u", "v"], "w"), u=WEIGHT, v=WEIGHT), "Conv"),
        (build(node("MatMul", ["u", "x"], "z"), w=WEIGHT, u=np.ones((4, 16), np.float32)),
         "MatMul"),
        (build(node("Einsum", ["x", "u"], "z", equation="nchw,co->nohw"), w=WEIGHT,
               u=np.ones((3, 4), np.float32)), "Einsum"),
    ],
)  # fmt: skip
def test_no_totals_where_something_that_may_hold_weights_was_not_understood(
    model: onnx.ModelProto | None, named: str, tmp_path: Path
) -> None:
    from strzoo.analysis.rendering import rows, summary

    path = tmp_path / "m.onnx"
    if model is None:
        optimised(fusable(), path, "ALL")
    else:
        onnx.save(model, path)
    report = strzoo.inspect_onnx(path).report
    assert report.incomplete == (named,)
    assert (report.sparsity, report.nonzeros, report.sparse_macs) == (None, None, None)
    assert set(report.to_dict()["totals"].values()) == {None}
    assert rows(report)[-1][3:] == ("unknown", "unknown", "unknown", "", "unknown", "unknown")
    assert any(f"no totals: {named}" in line for line in summary(report))


@pytest.mark.parametrize("form", ["reshaped", "QLinearConv"])
def test_weights_have_their_shape_and_their_scale(form: str) -> None:
    weight = np.random.default_rng(1).integers(-8, 8, (8, 3, 3, 3)) / 4
    if form == "reshaped":
        to = node("Reshape", ["w", "to"], "turned")
        flat = weight.reshape(8, 27).astype(np.float32)
        model = build(to, weight="turned", w=flat, to=np.array([0, 3, 3, -1]))
    else:
        model = build(w=weight)
        del model.graph.node[:]
        inputs = ["x", "s", "z", "w", "s", "z", "s", "z"]
        model.graph.node.append(node("QLinearConv", inputs, "y"))
        del model.graph.initializer[:]
        for name, value in (("w", weight * 4 + 3), ("s", 0.25), ("z", 3)):
            kind = np.float32 if name == "s" else np.int8
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
    (found,) = weighted_nodes(model)
    np.testing.assert_array_equal(found.weight, weight)
