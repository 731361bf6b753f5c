"""Damaged tensors, attributes and types of ONNX files are named by what reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import strzoo
from strzoo.errors import IntegrityError, StrzooError

WEIGHT = np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3)
READERS: dict[str, Callable[[Path], Any]] = {
    "compile": lambda path: strzoo.compile(path, cache=False),
    "compile alone": lambda path: strzoo.compile(path, cache=False, islands="none"),
    "sparse engine": lambda path: strzoo.predict(
        path, np.zeros((8, 8, 3), np.uint8), engine="sparse"
    ),
    "onnxruntime": lambda path: strzoo.predict(path, np.zeros((8, 8, 3), np.uint8)),
    "report": strzoo.report,
    "matrices": lambda path: strzoo.export_matrices(path, path.parent / "matrices"),
}


def _model(kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    weight = WEIGHT.astype(helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", group=1, pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", kind, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, ["N", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _damage(name: str) -> onnx.ModelProto:
    model = _model(TensorProto.FLOAT16 if name == "cut half" else TensorProto.FLOAT)
    tensor, attribute = model.graph.initializer[0], model.graph.node[0].attribute[0]
    match name:
        case "cut" | "cut half":
            tensor.raw_data = tensor.raw_data[:-4]
        case "kind":
            tensor.data_type = 77
        case "no kind":
            tensor.data_type = 0
        case "shape":
            tensor.dims[0] = 5
        case "attribute without type":
            attribute.type = 0
        case "attribute of another type":
            attribute.CopyFrom(helper.make_attribute("group", b"\xff"))
        case "no groups":
            attribute.i = 0
        case "input":
            model.graph.input[0].type.tensor_type.elem_type = 77
        case "output":
            model.graph.output[0].type.tensor_type.elem_type = 77
    return model


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["cut", "cut half", "kind", "no kind", "shape"])
def test_a_damaged_weight_is_named(name: str, reader: str, tmp_path: Path) -> None:
    onnx.save(_damage(name), tmp_path / "m.onnx")
    with pytest.raises(IntegrityError, match=r"m\.onnx"):
        READERS[reader](tmp_path / "m.onnx")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name",
    ["attribute without type", "attribute of another type", "no groups", "input", "output"],
)
def test_other_damage_gives_no_foreign_error(name: str, reader: str, tmp_path: Path) -> None:
    onnx.save(_damage(name), tmp_path / "m.onnx")
    with contextlib.suppress(StrzooError):  # some do not look at it
        READERS[reader](tmp_path / "m.onnx")


def test_a_constant_in_a_node_is_read_with_the_same_care(tmp_path: Path) -> None:
    model = _model()
    tensor = model.graph.initializer.pop()
    tensor.raw_data = tensor.raw_data[:-4]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    onnx.save(model, tmp_path / "m.onnx")
    for reader in READERS.values():
        with pytest.raises(IntegrityError, match=r"m\.onnx"):
            reader(tmp_path / "m.onnx")
