"""Every form of EdgeML's files, built here from their description."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.rnn import (
    FastGRNN,
    FastGRNNCell,
    SequenceClassifier,
    read_classifier,
    read_network,
    to_edgeml,
    write_folder,
)

State = dict[str, Tensor]


def _cell(size: int = 3, hidden: int = 5, **ranks: Any) -> FastGRNNCell:
    torch.manual_seed(hidden)
    cell = FastGRNNCell(size, hidden, **ranks)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return cell


def _state(cell: FastGRNNCell, prefix: str = "", *, turned: bool = False) -> State:
    return {
        prefix + k: (v.t().contiguous() if turned and k[0] in "WU" else v.clone())
        for k, v in cell.state_dict().items()
    }


def _unrolled(cell: FastGRNNCell, prefix: str = "") -> State:
    return {**_state(cell, f"{prefix}cell."), **_state(cell, f"{prefix}unrollRNN.RNNCell.")}


def _check(found: FastGRNN, *cells: FastGRNNCell) -> None:
    x = torch.randn(4, 2, cells[0].input_size)
    torch.testing.assert_close(found(x)[0], FastGRNN.from_cells(cells)(x)[0])


RANKS: list[dict[str, Any]] = [{}, {"rank_w": 2}, {"rank_u": 2}, {"rank_w": 2, "rank_u": 4}]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("ranks", RANKS, ids=str)
def test_the_orientation_follows_from_the_shapes(ranks: dict[str, Any], turned: bool) -> None:
    cell = _cell(**ranks)
    _check(read_network(_state(cell, turned=turned)), cell)


@pytest.mark.parametrize("turned", [False, True])
def test_square_matrices_ask_for_the_orientation_and_low_ranks_tell(turned: bool) -> None:
    square = _cell(5, 5)
    orientation = "hidden_first" if turned else "in_first"
    with pytest.raises(UsageError, match=r"both have 5 features.*say orientation='in_first'"):
        read_network(_state(square, turned=turned))
    _check(read_network(_state(square, turned=turned), orientation=orientation), square)
    low = _cell(5, 5, rank_u=2)
    _check(read_network(_state(low, turned=turned)), low)
    other = "in_first" if turned else "hidden_first"
    with pytest.raises(IntegrityError, match=f"shapes are of {orientation}, not {other}"):
        read_network(_state(low, turned=turned), orientation=other)


def test_a_square_second_layer_follows_the_first() -> None:
    cells = _cell(3, 5), _cell(5, 5)
    state = {**_state(cells[0], "rnn_list.0.", turned=True),
             **_state(cells[1], "rnn_list.1.", turned=True)}  # fmt: skip
    _check(read_network(state), *cells)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_a_layer_hold_its_cell_twice(tmp_path: Path, suffix: str) -> None:
    cell, path = _cell(), tmp_path / f"layer{suffix}"
    state = {f"module.{k}": v for k, v in _unrolled(cell).items()}
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    _check(read_network(path), cell)
    state["module.unrollRNN.RNNCell.zeta"] += 1
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(IntegrityError, match=r"cell.zeta and unrollRNN.RNNCell.zeta are the same"):
        read_network(tmp_path / "odd.pth")


def test_a_cuda_network_leaves_empty_matrices_and_a_copy_for_the_cpu() -> None:
    cell = _cell(rank_w=2, rank_u=2)
    state = _state(cell, "rnn_list.0.", turned=True)
    state |= {f"rnn_list.0.{k}": torch.empty(0) for k in ("W", "U")}
    state |= _unrolled(cell, "rnn_list_.0.")
    _check(read_network(state), cell)


def test_a_shared_backward_cell_becomes_one_of_its_own() -> None:
    cell = _cell()
    state = {**_unrolled(cell), **_state(cell, "unrollRNN.RNNCell_reverse.")}
    found, x = read_network(state), torch.randn(4, 2, 3)
    output, _ = found(x)
    behind, _ = FastGRNN.from_cells([cell])(x.flip(0))
    assert found.bidirectional
    torch.testing.assert_close(output[:, :, 5:], behind.flip(0))


def test_a_keyword_spotter_has_layers_and_a_linear_layer() -> None:
    cells = _cell(3, 5, rank_w=2), _cell(5, 4)
    weight, bias = torch.randn(6, 4), torch.randn(6)
    state = {**_unrolled(cells[0], "rnn_list.0."), **_unrolled(cells[1], "rnn_list.1.")}
    state |= {"hidden2keyword.weight": weight, "hidden2keyword.bias": bias}
    model, x = read_classifier(state), torch.randn(2, 7, 3)
    final = FastGRNN.from_cells(cells)(x.transpose(0, 1))[1][-1]
    torch.testing.assert_close(model(x), final @ weight.t() + bias)
    assert {k: v.shape for k, v in to_edgeml(model, "rnn_list").items()} == {
        k: v.shape for k, v in state.items()
    }


def _folder(path: Path, cell: FastGRNNCell, **more: np.ndarray) -> Path:
    path.mkdir()
    names = {"bias_gate": "Bg", "bias_update": "Bh"}
    values = {names.get(k, k): v.numpy() for k, v in cell.state_dict().items()}
    for name, value in {**values, **more}.items():
        np.save(path / f"{name}.npy", value)
    return path


def test_a_folder_holds_the_linear_layer_and_a_mean_for_every_step(tmp_path: Path) -> None:
    cell, generator = _cell(rank_w=2, rank_u=3), np.random.default_rng(0)
    fc, bias = generator.normal(size=(5, 4)), generator.normal(size=4)
    mean, std = generator.normal(size=7 * 3), generator.random(7 * 3) + 0.5
    folder = _folder(tmp_path / "model", cell, FC=fc, FCbias=bias, mean=mean, std=std)
    model, x = read_classifier(folder), torch.randn(2, 7, 3)
    normal = (x - torch.tensor(mean.reshape(7, 3)).float()) / torch.tensor(std.reshape(7, 3))
    final = FastGRNN.from_cells([cell])(normal.float().transpose(0, 1))[1][0]
    torch.testing.assert_close(
        model(x), final @ torch.tensor(fc).float() + torch.tensor(bias).float()
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rnn = FastGRNN(3, 5, rank_w="learned", rank_u="learned", s_init=-0.3)
    model = SequenceClassifier(rnn, 4, mean=torch.randn(6, 3), std=torch.rand(6, 3) + 1)
    x = torch.randn(2, 6, 3)
    folder = write_folder(model, tmp_path / "folder")
    torch.testing.assert_close(read_classifier(folder)(x), model(x))
    steps = torch.randn(4, 2, 3)
    for layout in ("cell", "rnn_list"):
        found = read_network(to_edgeml(model, layout))
        torch.testing.assert_close(found(steps)[0], model.rnn(steps)[0])
    with pytest.raises(StrzooError, match="folder exists; name a new folder"):
        write_folder(model, folder)
    deep = SequenceClassifier(FastGRNN(3, 5, 2), 4)
    with pytest.raises(UsageError, match="folders hold one layer"):
        write_folder(deep, tmp_path / "deep")
    with pytest.raises(UsageError, match="layout 'cell' is for one layer, not 2"):
        to_edgeml(deep, "cell")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zeta": None}, "zeta is missing"),
        ({"W": None}, "neither W nor W1 and W2"),
        ({"W1": torch.zeros(3, 2), "W2": torch.zeros(2, 5)}, "neither W nor W1 and W2, or both"),
        ({"W": torch.zeros(3, 6)}, r"W has shapes \[\[3, 6\]\], which do not fit 5 states"),
        ({"U": torch.zeros(4, 5)}, "U has shapes"),
        ({"bias_update": torch.zeros(1, 4)}, r"bias_update has shape \[1, 4\], not 5 values"),
        ({"nu": torch.tensor([[float("nan")]])}, "nu holds a value that is no finite number"),
        ({"alpha": torch.zeros(1)}, "'alpha' is no entry of a FastGRNN"),
        ({"rnn_list.2.W": torch.zeros(3, 5)}, r"holds layers \[0, 2\]"),
    ],
)
def test_what_is_no_fastgrnn_is_named_in_one_line(change: dict[str, Any], message: str) -> None:
    state = {k: v for k, v in {**_state(_cell()), **change}.items() if v is not None}
    with pytest.raises(IntegrityError, match=message) as caught:
        read_network(state)
    assert "\n" not in str(caught.value)


def test_bad_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match=r"none.pth does not exist"):
        read_network(tmp_path / "none.pth")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(IntegrityError, match=r"holds no .npy files of a FastGRNN"):
        read_network(empty)
    folder = _folder(tmp_path / "model", _cell())
    with pytest.raises(IntegrityError, match="has no linear layer"):
        read_classifier(folder)
    np.save(folder / "zeta.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(IntegrityError, match=r"zeta.npy is not a .npy file of numbers"):
        read_network(folder)
    # A header that promises a terabyte: nothing is allocated for it.
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,), }"
    padded = header + b" " * (118 - len(header)) + b"\n"
    (folder / "zeta.npy").write_bytes(b"\x93NUMPY\x01\x00" + b"\x77\x00" + padded)
    with pytest.raises(IntegrityError, match=r"zeta.npy is not a .npy file of numbers"):
        read_network(folder)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**_state(_cell()), "x": _Evil()}, "evil.pth")
    with pytest.raises(IntegrityError, match=r"is refused: its pickle calls (posix|nt)\.system"):
        read_network("evil.pth")
    assert not Path("executed").exists()
