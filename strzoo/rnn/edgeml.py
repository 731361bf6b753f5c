"""EdgeML's FastGRNN files, in every form that its versions wrote, and back.

Matrices are [in, H] in most versions. Before the middle of 2020 in release 0.3.0, and in all CUDA
cells, they are transposed: `W` [H, in], `W1` [r, in], `W2` [H, r].

State dicts (.pth, .pt, .safetensors), with or without `module.`: a cell's own keys; `cell.*` with
`unrollRNN.RNNCell.*`, which is the same cell again; `rnn_list.{l}.*` with any of these in it and
`hidden2keyword.*`, the linear layer. Folders hold `.npy` files: `W` or `W1` and `W2`, `U` or `U1`
and `U2`, `Bg`, `Bh`, `zeta`, `nu`, `FC`, `FCbias`, and perhaps `mean` and `std`.

Neither says which nonlinearities were trained with: that is for the caller to know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.edgeml_forms import (
    BIASES,
    IN_FOLDER,
    MATRICES,
    SCALARS,
    Parts,
    read_parts,
    spell_source,
)
from strzoo.rnn.layer import FastGRNN

ORIENTATIONS = ("in_first", "hidden_first")
LAYOUTS = ("cell", "rnn_list")


def read_network(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    gate: str = "sigmoid",
    update: str = "tanh",
    orientation: str | None = None,
    batch_first: bool = False,
) -> FastGRNN:
    """The recurrent layers of an EdgeML file, folder or state dict.

    A bidirectional file's second direction is aligned with the first, as in `nn.GRU`; EdgeML leaves
    its outputs in the order of computation. Final states are the same.

    Args:
        source: a file, a folder of `.npy` files, or the state dict itself.
        gate, update: the nonlinearities, which the file does not name.
        orientation: "in_first" for `W` [in, H], "hidden_first" for [H, in]; needed only where no
            shape tells, which is where all matrices are square.
        batch_first: of the network that is made.

    Returns:
        The network, in evaluation mode.

    Raises:
        StrzooError: it does not exist or cannot be read.
        IntegrityError: it is damaged or no FastGRNN; the offending entry is named.
        UsageError: an unknown nonlinearity or orientation, or the orientation must be given.
    """
    return _build(read_parts(source), gate, update, orientation, batch_first, spell_source(source))


def read_classifier(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    gate: str = "sigmoid",
    update: str = "tanh",
    orientation: str | None = None,
) -> SequenceClassifier:
    """The whole classifier of an EdgeML file or folder: layers, linear layer, normalisation.

    Args:
        source, gate, update, orientation: as for `read_network`.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        StrzooError, IntegrityError, UsageError: as `read_network`; also an IntegrityError if there
            is no linear layer.
    """
    parts, name = read_parts(source), spell_source(source)
    rnn = _build(parts, gate, update, orientation, False, name)
    if parts.linear is None:
        raise IntegrityError(
            f"{name} has no linear layer (FC and FCbias, or hidden2keyword.*); "
            "strzoo.rnn.read_network reads the recurrent layers alone"
        )
    weight, bias = parts.linear
    if weight.dim() != 2 or weight.shape[0] != rnn.output_size or bias.numel() != weight.shape[1]:
        raise IntegrityError(
            f"{name}: the linear layer has shapes {list(weight.shape)} and {list(bias.shape)}, "
            f"expected [{rnn.output_size}, classes] and [classes]"
        )
    statistics = {}
    for key in ("mean", "std"):
        value: Tensor | None = getattr(parts, key)
        if value is not None:
            statistics[key] = _by_step(name, key, value, rnn.input_size)
    try:
        with torch.random.fork_rng(devices=[]):  # the linear layer's first values are not wanted
            model = SequenceClassifier(rnn, weight.shape[1], **statistics)
    except UsageError as error:
        raise IntegrityError(f"{name}: {error}") from error
    with torch.no_grad():
        model.fc.weight.copy_(weight.t())
        model.fc.bias.copy_(bias.flatten())
    return model.eval()


def _by_step(name: str, key: str, value: Tensor, size: int) -> Tensor:
    """mean or std as [in], or [T, in] from the flat [T x in] that EdgeML writes."""
    if value.numel() % size:
        raise IntegrityError(
            f"{name}: {key} has {value.numel()} values, no multiple of the {size} inputs"
        )
    return value.reshape(size) if value.numel() == size else value.reshape(-1, size)


def to_edgeml(model: SequenceClassifier | FastGRNN, layout: str = "cell") -> dict[str, Tensor]:
    """The state dict of the EdgeML network with the same outputs.

    Args:
        model: learned ranks are folded.
        layout: "cell", the keys of EdgeML's `FastGRNN`, for one layer; "rnn_list", those of its
            keyword spotter, with the linear layer of a `SequenceClassifier`.

    Returns:
        Tensors by key, matrices [in, H].

    Raises:
        UsageError: an unknown layout, or several layers for "cell"; two directions with cells of
            their own, which EdgeML cannot build.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    folded = model.fold()
    rnn = folded.rnn if isinstance(folded, SequenceClassifier) else folded
    if rnn.bidirectional:
        raise UsageError("EdgeML's networks share one cell between directions; this one has two")
    if layout == "cell" and len(rnn.cells) > 1:
        raise UsageError(f"layout 'cell' is for one layer, not {len(rnn.cells)}; use 'rnn_list'")
    state = {}
    for index, cell in enumerate(rnn.cells):
        prefix = f"rnn_list.{index}." if layout == "rnn_list" else ""
        for place in ("cell.", "unrollRNN.RNNCell."):
            for key, value in cell.state_dict().items():
                state[f"{prefix}{place}{key}"] = value.detach().clone()
    if layout == "rnn_list" and isinstance(folded, SequenceClassifier):
        for key, value in folded.fc.state_dict().items():
            state[f"hidden2keyword.{key}"] = value.detach().clone()
    return state


def write_folder(model: SequenceClassifier, folder: str | os.PathLike[str]) -> Path:
    """Write a one-layer classifier as EdgeML's folder of `.npy` files (float32), for its C code and
    scripts. The folder gets its name when it is complete.

    Args:
        model: learned ranks are folded.
        folder: a new one.

    Returns:
        `folder`.

    Raises:
        UsageError: several layers or directions.
        StrzooError: the folder exists, or cannot be written.
    """
    folder = Path(folder)
    folded = model.fold()
    if len(folded.rnn.cells) > 1 or folded.rnn.bidirectional:
        raise UsageError("EdgeML's folders hold one layer in one direction")
    if folder.exists():
        raise StrzooError(f"{folder} exists; name a new folder")
    (cell,) = folded.rnn.cells
    values = {IN_FOLDER.get(k, k): v for k, v in cell.state_dict().items()}
    values |= {"FC": folded.fc.weight.t(), "FCbias": folded.fc.bias}
    values |= {"mean": folded.mean.flatten(), "std": folded.std.flatten()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        temporary.mkdir()
        for key, value in values.items():
            np.save(temporary / f"{key}.npy", value.detach().float().cpu().numpy())
        temporary.rename(folder)
    except OSError as error:
        raise StrzooError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if temporary.exists():
            for file in temporary.iterdir():
                file.unlink()
            temporary.rmdir()
    return folder


def _build(
    parts: Parts,
    gate: str,
    update: str,
    orientation: str | None,
    batch_first: bool,
    name: str,
) -> FastGRNN:
    if orientation is not None and orientation not in ORIENTATIONS:
        raise UsageError(f"orientation {orientation!r} is not one of {', '.join(ORIENTATIONS)}")
    everything = [*parts.cells, *parts.reverse]
    for cell in everything:
        _check_cell(cell, name)
    votes = {vote for cell in everything for vote in _vote(cell, name)}
    if len(votes) > 1 or (orientation is not None and votes - {orientation}):
        claimed = f", not {orientation}" if len(votes) == 1 else ""
        raise IntegrityError(f"{name}: its shapes are of {' and '.join(sorted(votes))}{claimed}")
    chosen = orientation or next(iter(votes), None)
    if chosen is None:
        size = everything[0]["bias_gate"].numel()
        raise UsageError(
            f"{name}: inputs and states both have {size} features, so its matrices may be [in, H] "
            "or [H, in]; say orientation='in_first' (most versions) or 'hidden_first' (CUDA cells "
            "and early 0.3.0)"
        )
    groups = [
        [_build_cell(cell, chosen, gate, update, name) for cell in cells]
        for cells in (parts.cells, parts.reverse)
    ]
    try:
        return FastGRNN.from_cells(*groups, batch_first=batch_first).eval()
    except UsageError as error:
        raise IntegrityError(f"{name}: {error}") from error


def _check_cell(cell: dict[str, Tensor], name: str) -> None:
    for key in (*BIASES, *SCALARS):
        if key not in cell:
            raise IntegrityError(f"{name}: {key} is missing")
    for side in ("W", "U"):
        whole, halves = side in cell, [f"{side}{i}" in cell for i in (1, 2)]
        if whole == all(halves) or (whole and any(halves)):
            raise IntegrityError(f"{name}: it has neither {side} nor {side}1 and {side}2, or both")
    size = cell["bias_gate"].numel()
    for key, value in cell.items():
        count = 1 if key in SCALARS else size
        if (value.dim() != 2) if key in MATRICES else value.numel() != count:
            expected = "a matrix" if key in MATRICES else f"{count} values"
            raise IntegrityError(f"{name}: {key} has shape {list(value.shape)}, not {expected}")
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise IntegrityError(f"{name}: {key} holds a value that is no finite number")


def _vote(cell: dict[str, Tensor], name: str) -> set[str]:
    """The orientations that the shapes of one cell leave, if not both."""
    hidden = cell["bias_gate"].numel()
    votes = set()
    for side in ("W", "U"):
        factors = [cell[k].shape for k in (side, f"{side}1", f"{side}2") if k in cell]
        possible = set()
        for orientation in ORIENTATIONS:
            shapes = [s if orientation == "in_first" else s[::-1] for s in factors]
            chained = len(shapes) == 1 or shapes[0][1] == shapes[1][0]
            square = side == "W" or shapes[0][0] == hidden
            if chained and square and shapes[-1][1] == hidden:
                possible.add(orientation)
        if not possible:
            raise IntegrityError(
                f"{name}: {side} has shapes {[list(s) for s in factors]}, which do not fit "
                f"{hidden} states"
            )
        if len(possible) == 1:
            votes |= possible
    return votes


def _build_cell(
    state: dict[str, Tensor], orientation: str, gate: str, update: str, name: str
) -> FastGRNNCell:
    turned = {
        key: value.t() if key in MATRICES and orientation == "hidden_first" else value
        for key, value in state.items()
    }
    first = turned["W"] if "W" in turned else turned["W1"]
    cell = FastGRNNCell(
        first.shape[0],
        turned["bias_gate"].numel(),
        gate=gate,
        update=update,
        rank_w=turned["W1"].shape[1] if "W1" in turned else None,
        rank_u=turned["U1"].shape[1] if "U1" in turned else None,
        device="meta",
    )
    wanted = cell.state_dict()
    shaped = {}
    for key, value in turned.items():
        if value.numel() != wanted[key].numel():
            raise IntegrityError(f"{name}: {key} has shape {list(value.shape)}")
        shaped[key] = value.reshape(wanted[key].shape).float().clone()
    cell.load_state_dict(shaped, assign=True)
    return cell
