"""Products by constant weights: counted in whatever form a file has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import strzoo
from strzoo.errors import IntegrityError, UsageError

W = np.random.default_rng(0).standard_normal((10, 48)).astype(np.float32)
FLATTEN = helper.make_node("Flatten", ["x"], ["f"])
# torch's view(x.size(0), -1): the number of images is computed.
RESHAPE = [
    helper.make_node("Shape", ["x"], ["shape"]),
    helper.make_node("Gather", ["shape", "zero"], ["count"]),
    helper.make_node("Unsqueeze", ["count"], ["counts"], axes=[0]),
    helper.make_node("Concat", ["counts", "rest"], ["to"], axis=0),
    helper.make_node("Reshape", ["x", "to"], ["f"]),
]


def write(
    path: Path, nodes: list[onnx.NodeProto], *, output: Any = None, w: np.ndarray = W
) -> Path:
    """Of images [N, 3, 4, 4] to [N, 10]."""
    weights = {"w": w, "zero": np.array(0), "twelve": np.array(12), "rest": np.array([-1])}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [output or helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )  # fmt: skip
    domains = ["", *sorted({node.domain for node in nodes} - {""})]
    opsets = [helper.make_opsetid(name, 1 if name else 11) for name in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=7), path)
    return path


@pytest.mark.parametrize(
    "nodes",
    [
        [FLATTEN, helper.make_node("Gemm", ["f", "w"], ["y"], "fc", transB=1)],
        [*RESHAPE, helper.make_node("Gemm", ["f", "w"], ["y"], "fc", transB=1)],
        [FLATTEN, helper.make_node("FusedMatMul", ["f", "w"], ["y"], "fc", domain="com.microsoft",
                                   transB=1, alpha=2.0)],
        [FLATTEN, helper.make_node("FusedGemm", ["f", "w"], ["y"], "fc", domain="com.microsoft",
                                   transB=1, activation="Relu")],
    ],
    ids=["Gemm", "Gemm of a computed shape", "FusedMatMul", "FusedGemm"],
)  # fmt: skip
def test_a_product_counts_its_weights_once_for_an_image(
    nodes: list[onnx.NodeProto], tmp_path: Path
) -> None:
    report = strzoo.inspect_onnx(write(tmp_path / "m.onnx", nodes)).report
    assert (report.weights, report.dense_macs, report.unsized) == (480, 480, ())
    assert report.layers[0].output == (10,)


def test_rows_that_a_computed_shape_makes_are_counted(tmp_path: Path) -> None:
    # 12 rows of 4 numbers for an image: their number is 12 times that of the images.
    rows = helper.make_node("Mul", ["count", "twelve"], ["rows"])
    counts = helper.make_node("Unsqueeze", ["rows"], ["counts"], axes=[0])
    product = helper.make_node("Gemm", ["f", "w"], ["y"], "fc", transB=1)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 10])
    nodes = [*RESHAPE[:2], rows, counts, *RESHAPE[3:], product]
    report = strzoo.inspect_onnx(
        write(tmp_path / "m.onnx", nodes, output=output, w=W[:, :4])
    ).report
    assert (report.weights, report.dense_macs, report.unsized) == (40, 12 * 40, ())


def test_macs_have_no_totals_where_a_layer_has_no_size(tmp_path: Path) -> None:
    # How many rows there are depends on the pixels.
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["p"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "fc"),
    ]
    path = write(tmp_path / "m.onnx", nodes, w=W[:4])
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    report = strzoo.inspect_onnx(path).report
    totals = report.to_dict()["totals"]
    assert report.unsized == ("fc",)
    assert (totals["weights"], totals["nonzeros"]) == (192, 192)
    assert {totals[name] for name in ("dense_macs", "sparse_macs", "dense_flops")} == {None}
    assert any("no totals of MACs" in note for note in report.notes)


@pytest.mark.parametrize("operator", ["SequenceConstruct", "ZipMap"])
def test_outputs_that_are_no_tensors_are_refused_in_one_line(operator: str, tmp_path: Path) -> None:
    product = helper.make_node("Gemm", ["f", "w"], ["scores"], "fc", transB=1)
    if operator == "ZipMap":
        last = helper.make_node("ZipMap", ["scores"], ["z"], domain="ai.onnx.ml",
                                classlabels_int64s=list(range(10)))  # fmt: skip
        kind = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
    else:
        last = helper.make_node("SequenceConstruct", ["scores"], ["z"])
        kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    output = helper.make_value_info("z", helper.make_sequence_type_proto(kind))
    path = write(tmp_path / "m.onnx", [FLATTEN, product, last], output=output)
    with pytest.raises(UsageError, match="output 'z' is a sequence, not a tensor"):
        strzoo.compile(path, cache=False)


def test_what_nothing_can_run_is_not_compiled_and_not_left_out_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [
        FLATTEN,
        helper.make_node("Gemm", ["f", "w"], ["g"], "fc", transB=1),
        helper.make_node("SuperConv", ["g", "w"], ["y"], "own", domain="my.vendor"),
    ]
    path = write(tmp_path / "m.onnx", nodes)
    with pytest.raises(IntegrityError, match="onnxruntime cannot load"):
        strzoo.compile(path, cache=False)
    made = strzoo.export_matrices(path, tmp_path / "matrices")
    assert ([layer.layer for layer in made.layers], made.skipped) == (
        ["fc"],
        ("my.vendor.SuperConv",),
    )
    assert "left out, no matrix product that is known: my.vendor.SuperConv" in caplog.text
