"""Matrices of ONNX models: those of the network they were exported from, or computed by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.sparse
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import strzoo
from strzoo.errors import UsageError
from strzoo.matrices.networks import make_random
from strzoo.settings import Settings
from tests.conftest import CliResult
from tests.helpers.mixed_network import MixedNetwork

Cli = Callable[..., CliResult]


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    torch.manual_seed(0)
    network = MixedNetwork()
    strzoo.sparsify_(network, "gmp", prune_rate=0.75)
    return strzoo.to_dense_(network)


def _matrices(made: strzoo.MatrixExport, folder: Path) -> list[np.ndarray]:
    files = [layer.files["npz"] for layer in made.layers]
    return [scipy.sparse.load_npz(folder / file).toarray() for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", [False, True])
def test_an_exported_network_has_the_matrices_and_inputs_of_the_network(
    preprocessing: bool, pruned: nn.Module, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"formats": ["npz"], "images": "photographs", "max_images": 2}
    strzoo.export_onnx(
        pruned, tmp_path / "n.onnx", input_size=(3, 32, 32), preprocessing=preprocessing
    )
    expected = strzoo.export_matrices(pruned, tmp_path / "a", input_size=(3, 32, 32), **options)
    found = strzoo.export_matrices(str(tmp_path / "n.onnx"), tmp_path / "b", **options)
    assert (found.source, found.images) == ("weights", 2)
    for one, other in zip(expected.layers, found.layers, strict=True):
        for field in ("shape", "stride", "padding", "dilation", "groups", "m", "k", "n",
                      "nonzeros", "input_size", "output_size"):  # fmt: skip
            assert getattr(one, field) == getattr(other, field), field
        assert one.activations is not None
        assert other.activations is not None
        inputs = (np.load(tmp_path / "a" / one.activations),
                  np.load(tmp_path / "b" / other.activations))  # fmt: skip
        np.testing.assert_allclose(*inputs, atol=1e-5)
    for a, b in zip(
        _matrices(expected, tmp_path / "a"), _matrices(found, tmp_path / "b"), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def _model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "made", [value("x", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_linears_are_out_by_in_however_they_are_stored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal(s).astype("f") for i, s in
               enumerate([(32, 5), (6, 5), (6, 7)])}  # fmt: skip
    weights["up"] = rng.standard_normal((2, 2, 2, 2)).astype("f")
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up"], ["u"], "up/sampling"),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w0"], ["a"], "/a:0/MatMul"),
        helper.make_node("Gemm", ["a", "w1"], ["b"], "../b", transB=1),
        helper.make_node("Gemm", ["b", "w2"], ["y"], "c"),
    ]
    made = strzoo.export_matrices(_model(nodes, weights), tmp_path / "m", formats=["npz"])
    assert made.skipped == ("up/sampling",)
    assert [(layer.m, layer.k, layer.n) for layer in made.layers] == [
        (5, 32, 1), (6, 5, 1), (7, 6, 1),
    ]  # fmt: skip
    expected = [weights["w0"].T, weights["w1"], weights["w2"].T]
    for matrix, wanted in zip(_matrices(made, tmp_path / "m"), expected, strict=True):
        np.testing.assert_array_equal(matrix, wanted)
    # Names of nodes with slashes stay names of files within the folder, one each.
    assert len(list((tmp_path / "m").iterdir())) == 4


def test_images_are_refused_where_no_batch_of_them_is_taken(tmp_path: Path) -> None:
    weights = {"w": np.ones((5, 3, 1, 1), np.float32)}
    model = _model([helper.make_node("Conv", ["x", "w"], ["y"], "c")], weights)
    del model.graph.input[0].type.tensor_type.shape.dim[3:]
    with pytest.raises(UsageError, match="does not take one batch of images"):
        strzoo.export_matrices(model, tmp_path / "m", images="photographs", input_size=None)
    assert list(tmp_path.iterdir()) == []


def test_unequal_pads_and_automatic_ones_are_stated(tmp_path: Path) -> None:
    weights = {"w": np.ones((2, 2, 2, 2), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "a", pads=[0, 1, 1, 0]),
        helper.make_node("Conv", ["a", "w"], ["y"], "b", auto_pad="SAME_UPPER"),
    ]
    made = strzoo.export_matrices(_model(nodes, weights), tmp_path / "m", formats=["smtx"])
    assert [layer.padding for layer in made.layers] == [(0, 1, 1, 0), "same_upper"]
    assert [layer.n for layer in made.layers] == [16, 16]


def test_an_id_without_weights_gets_random_ones_of_its_budget(
    cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(cache_dir=tmp_path / "cache", offline=True)
    with caplog.at_level(logging.WARNING, "strzoo"):
        made = strzoo.export_matrices(
            "mobilenetv1_str_89.01", tmp_path / "m", formats=["smtx"], input_size=(3, 32, 32),
            settings=settings,
        )  # fmt: skip
    assert "random ones are pruned to its published budget" in caplog.text
    assert made.source.startswith("random, budget mobilenetv1")
    counted = strzoo.report("mobilenetv1_str_89.01", settings=settings).layers
    assert [layer.nonzeros for layer in made.layers] == [layer.nonzeros for layer in counted]


def test_random_weights_are_always_the_same() -> None:
    state = torch.random.get_rng_state()
    first, second = (make_random("mobilenetv1_str_89.01").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(state, torch.random.get_rng_state())
