"""Matrix files: read by scipy, multiplied by hand, they give what the layer gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from torch import Tensor, nn

import strzoo
from strzoo.errors import StrzooError, UsageError
from strzoo.matrices import export as matrices
from tests.helpers.mixed_network import MixedNetwork


@pytest.fixture(scope="module")
def network() -> MixedNetwork:
    torch.manual_seed(0)
    model = MixedNetwork()
    strzoo.sparsify_(model, "gmp", prune_rate=0.75)
    return model


def test_the_matrix_times_the_unfolded_input_is_the_layers_output(
    network: MixedNetwork, tmp_path: Path
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
    network: MixedNetwork, tmp_path: Path
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
    network: MixedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    network: MixedNetwork, tmp_path: Path
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


def test_bad_arguments_are_named(network: MixedNetwork, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'csv' is not one of npz, mtx, smtx"):
        strzoo.export_matrices(network, tmp_path / "m", formats=["csv"])
    with pytest.raises(UsageError, match="no convolution or linear"):
        strzoo.export_matrices(nn.ReLU(), tmp_path / "m")
    with pytest.raises(StrzooError, match=r"is not a side, .* or \(channels, height, width\)"):
        strzoo.export_matrices(network, tmp_path / "m", input_size=(3, 16, 12, 1))
    assert list(tmp_path.iterdir()) == []
