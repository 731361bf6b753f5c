"""What EdgeML's files and folders hold, sorted into cells, linear layer and normalisation.

Shapes and orientation are left to `strzoo.rnn.edgeml`, which describes the forms.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strzoo.checkpoint.reading import read_tensors
from strzoo.errors import IntegrityError
from strzoo.rnn.arrays import read_npy

SCALARS = ("zeta", "nu")
BIASES = ("bias_gate", "bias_update")
MATRICES = ("W", "W1", "W2", "U", "U1", "U2")
_CELL_KEYS = (*MATRICES, *BIASES, *SCALARS)
IN_FOLDER = {"bias_gate": "Bg", "bias_update": "Bh"}
# Where a cell's keys lie: plainly, under a name, and under the loop that unrolls it; the same for
# the backward direction. `rnn_list_` is the copy on the CPU that CUDA networks carry.
_PLACES = ("", "cell.", "unrollRNN.RNNCell.", "RNNCell.")
_REVERSE_PLACES = ("cell_reverse.", "unrollRNN.RNNCell_reverse.", "RNNCell_reverse.")
_LAYER = re.compile(r"rnn_list\.(\d+)\.(.+)")
_COPY = "rnn_list_."


@dataclass
class Parts:
    """What a file holds: cells by direction and layer, linear layer [H, classes], normalisation."""

    cells: list[dict[str, Tensor]]
    reverse: list[dict[str, Tensor]] = field(default_factory=list)
    linear: tuple[Tensor, Tensor] | None = None
    mean: Tensor | None = None
    std: Tensor | None = None


def spell_source(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> str:
    """How messages call it."""
    return "the state dict" if isinstance(source, Mapping) else str(source)


def read_parts(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> Parts:
    """The parts of a file, a folder of `.npy` files, or a state dict.

    Raises:
        StrzooError: it does not exist or cannot be read.
        IntegrityError: it is damaged or no FastGRNN; the offending entry is named.
    """
    if isinstance(source, Mapping):
        return _sort(dict(source), "the state dict")
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    return _sort(read_tensors(path), str(path))


def _sort(state: dict[str, Tensor], name: str) -> Parts:
    """The parts of a state dict."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    layers: dict[int, dict[str, Tensor]] = {}
    linear: dict[str, Tensor] = {}
    for key, value in state.items():
        if found := _LAYER.fullmatch(key):
            layers.setdefault(int(found[1]), {})[found[2]] = value
        elif key.startswith("hidden2keyword."):
            linear[key.removeprefix("hidden2keyword.")] = value
        elif not key.startswith(_COPY):
            layers.setdefault(0, {})[key] = value
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise IntegrityError(f"{name} holds layers {sorted(layers)}; expected 0, 1, 2, ...")
    cells, reverse = [], []
    for index in range(len(layers)):
        label = f"{name}, layer {index}" if len(layers) > 1 else name
        cells.append(_join(layers[index], _PLACES, label))
        if any(key.startswith(_REVERSE_PLACES) for key in layers[index]):
            reverse.append(_join(layers[index], _REVERSE_PLACES, label))
        known = {f"{p}{k}" for p in (*_PLACES, *_REVERSE_PLACES) for k in _CELL_KEYS}
        if odd := sorted(set(layers[index]) - known):
            raise IntegrityError(f"{label}: {odd[0]!r} is no entry of a FastGRNN")
    pair = None
    if linear:
        if set(linear) != {"weight", "bias"} or linear["weight"].dim() != 2:
            raise IntegrityError(f"{name}: hidden2keyword lacks a weight matrix or a bias")
        pair = (linear["weight"].t(), linear["bias"])
    return Parts(cells, reverse, pair)


def _join(state: dict[str, Tensor], places: tuple[str, ...], name: str) -> dict[str, Tensor]:
    """The one cell that lies at some of these places, all copies being equal."""
    joined: dict[str, tuple[str, Tensor]] = {}
    for place in places:
        for key in _CELL_KEYS:
            value = state.get(place + key)
            if value is None or not value.numel():  # CUDA cells keep empty tensors
                continue
            if key in joined and not torch.equal(joined[key][1], value):
                raise IntegrityError(
                    f"{name}: {joined[key][0]} and {place + key} are the same cell's, but differ"
                )
            joined.setdefault(key, (place + key, value))
    return {key: value for key, (_, value) in joined.items()}


def _read_folder(folder: Path) -> Parts:
    names = {IN_FOLDER.get(key, key): key for key in _CELL_KEYS}
    cell, others = {}, {}
    for file in sorted(folder.glob("*.npy")):
        if file.stem in names:
            cell[names[file.stem]] = _read_tensor(file)
        elif file.stem in ("FC", "FCbias", "mean", "std"):
            others[file.stem] = _read_tensor(file)
    if not cell:
        raise IntegrityError(
            f"{folder} holds no .npy files of a FastGRNN (W1, W2, U1, U2, Bg, Bh, zeta, nu, ...)"
        )
    linear = None
    if "FC" in others and "FCbias" in others:
        linear = (others["FC"], others["FCbias"].flatten())
    return Parts([cell], [], linear, others.get("mean"), others.get("std"))


def _read_tensor(file: Path) -> Tensor:
    return torch.from_numpy(read_npy(file).astype(np.float32))
