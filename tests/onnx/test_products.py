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
    assert report.dense_macs is None
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


def _product(node: onnx.NodeProto, shape: list[Any], output: list[Any], w: np.ndarray) -> Any:
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    return strzoo.report(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize(
    ("node", "shape", "output"),
    [
        (helper.make_node("MatMul", ["w", "x"], ["y"]), ["N", 48, 5], ["N", 10, 5]),
        (helper.make_node("MatMul", ["w", "x"], ["y"]), [48, 5], [10, 5]),
        (helper.make_node("Gemm", ["w", "x"], ["y"], transB=1), [7, 48], [10, 7]),
        # The weights of each column of x, or of each row: which of them are images is not said.
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), [48, 3], [3, 10]),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), [48, 96], [96, 10]),
    ],
)
def test_a_product_that_cannot_be_counted_for_one_image_leaves_no_totals(
    node: onnx.NodeProto, shape: list[Any], output: list[Any]
) -> None:
    report = _product(node, shape, output, W)
    assert report.dense_macs is None
    assert report.sparse_macs is None
    assert report.to_dict()["totals"]["dense_macs"] is None
    assert any(note.startswith("no totals") for note in report.notes)


def test_a_transposed_product_of_one_image_is_counted() -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)
    report = _product(node, [1, 3], [3, 10], W[:1, :10])
    assert report.dense_macs == 3 * 10  # three rows of one number each, by ten weights
