"""Inspecting ONNX files: figures that follow by hand, or from the checkpoint by another road."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UsageError


def constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    shape: list[int | str],
    output: list[int | str | None],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A strided grouped convolution, BatchNorm, a pool, MatMul with a Constant weight, and Gemm."""
    conv = np.ones((4, 1, 3, 3), np.float32)
    conv[0] = 0  # 9 of 36 weights
    matmul = np.eye(4, 6, dtype=np.float32)  # 4 of 24 are not zero
    gemm = np.ones((5, 6), np.float32)
    ones = np.ones(4, np.float32)
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["c"], "first", strides=[2, 2], pads=[1, 1, 1, 1], group=2
        ),
        helper.make_node("BatchNormalization", ["c", "g", "beta", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Constant", [], ["k"], value=constant("value", matmul)),
        helper.make_node("MatMul", ["f", "k"], ["d"], "second"),
        helper.make_node("Gemm", ["d", "layers.third.weight"], ["y"], transB=1),
    ]
    names = ("b", "g", "beta", "m", "v")
    tensors = [constant("w", conv), *(constant(name, ones) for name in names)]
    tensors.append(constant("layers.third.weight", gemm))
    return write(tmp_path / "foreign.onnx", nodes, tensors, ["n", 2, 8, 8], ["n", 5])


def test_layers_weights_and_macs_of_a_foreign_file_follow_by_hand(foreign: Path) -> None:
    made = strzoo.inspect_onnx(foreign)
    layers = [
        (layer.name, layer.type, layer.shape, layer.output, layer.nonzeros, layer.dense_macs)
        for layer in made.report.layers
    ]
    assert layers == [
        ("first", "Conv", (4, 1, 3, 3), (4, 4, 4), 27, 16 * 36),  # 8x8 at stride 2 is 4x4
        ("second", "MatMul", (4, 6), (6,), 4, 24),
        ("layers.third", "Gemm", (5, 6), (5,), 30, 30),
    ]
    report = made.report
    assert report.weights == 36 + 24 + 30
    assert report.params == 90 + 4 + 4 + 4  # the bias, gamma and beta; no running statistics
    assert report.other_macs == {"GlobalAveragePool": 4 * 4 * 4}
    assert report.dense_macs == 576 + 24 + 30 + 64
    assert report.sparse_macs == 16 * 27 + 4 + 30 + 64
    assert report.input_size == (2, 8, 8)
    assert made.inputs == {"x": ("float", ("n", 2, 8, 8))}
    assert made.outputs == {"y": ("float", ("n", 5))}
    assert made.opsets == {"ai.onnx": 17}
    assert made.bytes == foreign.stat().st_size


def test_integer_convolutions_are_understood(tmp_path: Path) -> None:
    weight = np.full((2, 3, 1, 1), 5, np.int8)
    weight[0, 0] = 7  # equals its zero point
    scale, zero = np.array([0.5, 0.5], np.float32), np.array([7, 0], np.int8)
    one, none = np.array(0.1, np.float32), np.array(0, np.uint8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z"], ["o"], "conv"),
        helper.make_node("DequantizeLinear", ["o", "s", "z"], ["y"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["unused"], axis=0),
    ]
    tensors = [
        constant("s", one),
        constant("z", none),
        constant("w", weight),
        constant("ws", scale),
        constant("wz", zero),
    ]
    file = write(tmp_path / "q.onnx", nodes, tensors, [1, 3, 4, 4], [1, 2, 4, 4])
    (layer,) = strzoo.inspect_onnx(file).report.layers
    assert (layer.type, layer.shape, layer.output) == ("QLinearConv", (2, 3, 1, 1), (2, 4, 4))
    assert (layer.nonzeros, layer.dense_macs) == (5, 6 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_export_reports_what_its_checkpoint_reports(
    resnet20_file: Path, tmp_path: Path, precision: str
) -> None:
    strzoo.export_onnx(resnet20_file, tmp_path / "a.onnx", precision=precision)
    found = strzoo.inspect_onnx(tmp_path / "a.onnx").report
    expected = strzoo.report(resnet20_file, input_size=(3, 32, 32))
    layers = {layer.name: layer for layer in found.layers}
    assert set(layers) == {layer.name for layer in expected.layers}
    for layer in expected.layers:
        twin = layers[layer.name]
        assert (twin.shape, twin.output) == (layer.shape, layer.output)
        assert twin.dense_macs == layer.dense_macs
        assert twin.nonzeros is not None
        assert layer.nonzeros is not None
        if precision == "int8":  # small weights round to zero
            assert 0.95 * layer.nonzeros <= twin.nonzeros <= layer.nonzeros
        else:
            assert twin.nonzeros == layer.nonzeros
    assert found.dense_macs == expected.dense_macs


def test_an_open_input_size_is_asked_for_and_a_wrong_one_refused(
    resnet20_onnx: strzoo.OnnxExport, tmp_path: Path
) -> None:
    weight = constant("w", np.ones((1, 3, 1, 1), np.float32))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    file = write(tmp_path / "open.onnx", nodes, [weight], ["n", 3, "h", "w"], ["n", 1, "h", "w"])
    with pytest.raises(UsageError, match="axis 2 of input 'x' has no fixed size; pass the input"):
        strzoo.inspect_onnx(file)
    (layer,) = strzoo.inspect_onnx(file, input_size=(3, 5, 7)).report.layers
    assert (layer.output, layer.dense_macs) == ((1, 5, 7), 3 * 35)
    with pytest.raises(UsageError, match="fixed at 32; the input size says 64"):
        strzoo.inspect_onnx(resnet20_onnx.path, input_size=(3, 64, 64))


def test_files_that_are_no_onnx_model_are_refused(
    resnet20_file: Path, resnet20_onnx: strzoo.OnnxExport, tmp_path: Path
) -> None:
    with pytest.raises(StrzooError, match="does not exist"):
        strzoo.inspect_onnx(tmp_path / "missing.onnx")
    content = resnet20_onnx.path.read_bytes()
    for name, data in (
        ("empty", b""),
        ("page", b"<!DOCTYPE html><title>Not found</title>"),
        ("cut", content[: len(content) // 2]),
        ("checkpoint", resnet20_file.read_bytes()),
    ):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(data)
        said = "is a web page, not an ONNX model" if name == "page" else "is not a"
        with pytest.raises(IntegrityError, match=f"{name}.onnx {said}"):
            strzoo.inspect_onnx(file)


def test_a_transformer_like_linear_counts_every_position(tmp_path: Path) -> None:
    file = tmp_path / "tokens.onnx"
    program = torch.nn.Linear(6, 2, bias=False)
    weight = constant("proj.weight", program.weight.detach().numpy().T.copy())
    nodes = [helper.make_node("MatMul", ["x", "proj.weight"], ["y"])]
    write(file, nodes, [weight], [2, 10, 6], [2, 10, 2])
    (layer,) = strzoo.inspect_onnx(file).report.layers
    assert (layer.name, layer.dense_macs) == ("proj", 10 * 12)  # per image, not per batch
