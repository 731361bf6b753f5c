"""Matrix files: read by scipy, multiplied by hand, they give what the layer gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.io
import scipy.sparse
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import strzoo
from strzoo.errors import OfflineError, StrzooError, UsageError
from strzoo.matrices import export as matrices
from strzoo.matrices.layers import file_stems
from strzoo.settings import Settings


class _Mixed(nn.Module):
    """Plain, strided, dilated and grouped convolutions, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 12, (3, 1), padding=(1, 0), dilation=(2, 1), groups=4)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.first(x).relu_())
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> _Mixed:
    torch.manual_seed(0)
    model = _Mixed()
    strzoo.sparsify_(model, "gmp", prune_rate=0.75)
    return model


def test_the_matrix_times_the_unfolded_input_is_the_layers_output(
    network: _Mixed, tmp_path: Path
) -> None:
    made = strzoo.export_matrices(
        network, tmp_path / "m", input_size=(3, 16, 12), images="photographs", max_images=2
    )
    outputs: dict[str, Tensor] = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(
            lambda m, i, o, name=name: outputs.update({name: o.detach().clone()})
        )
    first = torch.from_numpy(np.load(tmp_path / "m" / "first.input.npy"))
    network(first)
    for entry in made.layers:
        assert entry.activations is not None
        inputs = torch.from_numpy(np.load(tmp_path / "m" / entry.activations))
        matrix = scipy.sparse.load_npz(tmp_path / "m" / entry.files["npz"])
        assert matrix.shape == (entry.groups * entry.m, entry.k)
        layer = getattr(network, entry.layer)
        if isinstance(layer, nn.Linear):
            found = matrix @ inputs.numpy().T
            expected = (outputs[entry.layer] - layer.bias).T
            assert entry.n == 1
        else:
            kernel = entry.shape[2:]
            assert not isinstance(entry.padding, str)
            columns = nn.functional.unfold(
                inputs, kernel, dilation=entry.dilation, padding=entry.padding, stride=entry.stride
            )[0].numpy()
            assert columns.shape == (entry.groups * entry.k, entry.n)
            found = np.concatenate(
                [
                    matrix[g * entry.m : (g + 1) * entry.m]
                    @ columns[g * entry.k : (g + 1) * entry.k]
                    for g in range(entry.groups)
                ]
            )
            bias = 0 if layer.bias is None else layer.bias[:, None]
            expected = outputs[entry.layer][0].flatten(1) - bias
            assert entry.output_size == tuple(outputs[entry.layer].shape[1:])
        np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


def test_the_three_formats_hold_the_same_matrix_and_the_index_describes_it(
    network: _Mixed, tmp_path: Path
) -> None:
    made = strzoo.export_matrices(network, tmp_path / "m", input_size=(3, 16, 12))
    index = json.loads((tmp_path / "m" / "index.json").read_text())
    assert index == json.loads(json.dumps(made.to_dict()))
    # round(0.75 n) of 216, 72 and 60 weights are dropped
    assert [entry["nonzeros"] for entry in index["layers"]] == [54, 18, 15]
    assert [entry["sparsity"] for entry in index["layers"]] == [75.0, 75.0, 75.0]
    assert index["layers"][0]["input_size"] == [3, 16, 12]
    assert (index["layers"][0]["m"], index["layers"][0]["k"], index["layers"][0]["n"]) == (
        8,
        27,
        48,
    )
    for entry in index["layers"]:
        csr = scipy.sparse.load_npz(tmp_path / "m" / entry["files"]["npz"])
        market = scipy.io.mmread(tmp_path / "m" / entry["files"]["mtx"]).toarray()
        assert csr.dtype == np.float32
        np.testing.assert_array_equal(csr.toarray(), market.astype(np.float32))
        sizes, offsets, columns = (tmp_path / "m" / entry["files"]["smtx"]).read_text().splitlines()
        assert [int(n) for n in sizes.split(",")] == [*csr.shape, csr.nnz]
        assert [int(n) for n in offsets.split()] == csr.indptr.tolist()
        assert [int(n) for n in columns.split()] == csr.indices.tolist()
        assert entry["activations"] is None


def test_a_failure_midway_leaves_the_folder_as_it_was(
    network: _Mixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    strzoo.export_matrices(network, folder, input_size=(3, 16, 12), formats=["smtx"])
    before = sorted(path.name for path in folder.iterdir())

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrices, "write_matrix", full)
    with pytest.raises(StrzooError, match="no space left on the disk"):
        strzoo.export_matrices(network, folder, input_size=(3, 16, 12), force=True)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_only_a_folder_of_matrices_is_replaced_and_only_when_forced(
    network: _Mixed, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    options: dict[str, Any] = {"input_size": (3, 16, 12), "formats": ["smtx"]}
    strzoo.export_matrices(network, folder, **options)
    with pytest.raises(StrzooError, match="exists; pass --force"):
        strzoo.export_matrices(network, folder, **options)
    (folder / "stale.mtx").write_text("old")
    strzoo.export_matrices(network, folder, force=True, **options)
    assert not (folder / "stale.mtx").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(StrzooError, match="was not written by strzoo matrices"):
        strzoo.export_matrices(network, mine, force=True, **options)
    assert (mine / "thesis.tex").read_text() == "years of work"


def test_bad_arguments_are_named(network: _Mixed, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'csv' is not one of npz, mtx, smtx"):
        strzoo.export_matrices(network, tmp_path / "m", formats=["csv"])
    with pytest.raises(UsageError, match="no convolution or linear"):
        strzoo.export_matrices(nn.ReLU(), tmp_path / "m")
    with pytest.raises(StrzooError, match=r"is not \(channels, height, width\)"):
        strzoo.export_matrices(network, tmp_path / "m", input_size=(3, 16, 12, 1))
    assert list(tmp_path.iterdir()) == []


def _product(kind: str, weight: np.ndarray) -> onnx.ModelProto:
    """A convolution of `weight` [8, 3, 3, 3] with a stride, then a linear [8, 5] of ones and zeros
    in the form `kind`."""
    linear = np.eye(8, 5, dtype=np.float32)
    tensors = {"first.weight": weight, "head": linear}
    front: list[onnx.NodeProto] = []
    name, head = "first.weight", helper.make_node("MatMul", ["f", "head"], ["y"], "head")
    if kind == "transB":
        tensors["head"] = linear.T
        head = helper.make_node("Gemm", ["f", "head"], ["y"], "head", transB=1)
    elif kind == "QDQ":  # exact: the weights are multiples of 1/4
        tensors |= {"first.weight": (weight * 4).astype(np.int8), "s": np.float32(0.25)}
        front, name = [helper.make_node("DequantizeLinear", ["first.weight", "s"], ["d"])], "d"
    elif kind == "reshaped":
        tensors |= {"first.weight": weight.reshape(8, 27), "to": np.array([0, 3, 3, -1])}
        front, name = [helper.make_node("Reshape", ["first.weight", "to"], ["d"])], "d"
    window: dict[str, Any] = {"strides": [2, 2], "auto_pad": "SAME_UPPER"}
    nodes = [*front, helper.make_node("Conv", ["x", name], ["c"], "conv", **window),
             helper.make_node("GlobalAveragePool", ["c"], ["g"]),
             helper.make_node("Flatten", ["g"], ["f"]), head]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ["MatMul", "transB", "QDQ", "reshaped"])
def test_an_onnx_graph_has_the_same_matrices_however_it_holds_them(
    kind: str, tmp_path: Path
) -> None:
    weight = np.random.default_rng(0).integers(-3, 4, (8, 3, 3, 3)).astype(np.float32) / 4
    made = strzoo.export_matrices(
        _product(kind, weight), tmp_path / "m", images="photographs", max_images=2
    )
    (first, head) = made.layers
    found = scipy.sparse.load_npz(tmp_path / "m" / first.files["npz"]).toarray()
    np.testing.assert_array_equal(found, weight.reshape(8, 27))
    # SAME at stride 2: 16 -> 8 and 12 -> 6, of which one row and column lie outside, at the end
    assert (first.output_size, first.n, first.padding) == ((8, 8, 6), 48, (0, 0, 1, 1))
    found = scipy.sparse.load_npz(tmp_path / "m" / head.files["npz"]).toarray()
    np.testing.assert_array_equal(found, np.eye(5, 8))
    assert (head.input_size, head.output_size, head.n, made.weights) == ((8,), (5,), 1, "model")
    inputs, reached = (np.load(tmp_path / "m" / str(la.activations)) for la in made.layers)
    padded = torch.nn.functional.pad(torch.from_numpy(inputs), (0, 1, 0, 1))
    expected = torch.conv2d(padded, torch.from_numpy(weight), stride=2).mean((2, 3)).numpy()
    np.testing.assert_allclose(reached, expected, atol=1e-5)


def test_an_id_without_weights_has_random_ones_as_many_as_its_budget(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path / "cache", offline=True)
    name = "mobilenetv1_str_89.01"
    made = strzoo.export_matrices(
        name, tmp_path / "m", formats=["smtx"], input_size=(3, 32, 32), settings=settings
    )
    assert made.weights == "random"
    assert "random weights" in made.notes[0]
    percent = strzoo.load_budget(name).layers
    sizes = {la.layer: la.groups * la.m * la.k for la in made.layers}
    for layer in made.layers:
        kept = sizes[layer.layer] * (1 - percent[layer.layer] / 100)
        assert abs(layer.nonzeros - kept) <= 0.5
    with pytest.raises(OfflineError):  # no budget says how sparse it is
        strzoo.export_matrices("resnet50_dense", tmp_path / "d", settings=settings)
    assert not (tmp_path / "d").exists()


def test_files_of_a_graph_have_safe_and_different_names() -> None:
    names = ["../../a", "a/b", "a_b", "A_B", "", "l" * 300, "layer1.0.conv1"]
    stems = file_stems(names)
    assert len({stem.lower() for stem in stems.values()}) == len(names)
    assert all("/" not in s and not s.startswith(".") and len(s) < 140 for s in stems.values())
    assert (stems[""], stems["layer1.0.conv1"]) == ("model", "layer1.0.conv1")
