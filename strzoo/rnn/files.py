"""Files of FastGRNN networks: written in strzoo's form, read in that and in EdgeML's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strzoo.checkpoint.reading import read_document
from strzoo.errors import IntegrityError, UsageError
from strzoo.files import atomic_path
from strzoo.rnn.cell import LEARNED, FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.edgeml import read_classifier
from strzoo.rnn.layer import FastGRNN
from strzoo.rnn.quantisation import Int8Classifier
from strzoo.strict_json import read_json
from strzoo.version import VERSION

MARK = "strzoo_rnn"  # the key that tells our files, with the version of their form
_VERSION = 1
_RESULT = "result.json"  # of a training, beside the networks of each pair of ranks
_LARGEST_SIZE = 1 << 20  # of a layer; a damaged number must not become an allocation


@dataclass(frozen=True)
class _CellSpec:
    """The arguments that rebuild a cell."""

    input_size: int
    hidden_size: int
    gate: str
    update: str
    rank_w: int | str | None
    rank_u: int | str | None


def save_rnn(
    model: SequenceClassifier | Int8Classifier,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str | int | float | bool | None] | None = None,
    force: bool = False,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Write a classifier to `path` (.pth), whole or not at all.

    The file is a `torch.save` dictionary of tensors and plain values: `strzoo_rnn` 1, `cells` and
    `reverse_cells` (what rebuilds each), `batch_first`, `num_classes`, `state_dict`, `scales` (int8
    networks: int8 matrices in `state_dict` times these), `metadata`.

    Args:
        model: int8 networks are stored in int8.
        path: ends in .pth or .pt.
        metadata: plain values to keep.
        force: overwrite an existing file.
        check: called with the written file before it gets its name; what it raises leaves none.

    Returns:
        `path`.

    Raises:
        UsageError: the name does not end in .pth or .pt.
        StrzooError: the destination is refused.
    """
    path = Path(path)
    if path.suffix not in (".pth", ".pt"):
        raise UsageError(f"{path} does not end in .pth or .pt")
    network = model.network if isinstance(model, Int8Classifier) else model
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    scales: dict[str, Tensor] = {}
    if isinstance(model, Int8Classifier):
        for name, matrix in model.matrices.items():
            state[name], scales[name] = matrix.values, matrix.scale
    rnn = network.rnn
    document = {
        MARK: _VERSION,
        "strzoo": VERSION,
        "cells": [asdict(_describe(cell)) for cell in rnn.cells],
        "reverse_cells": [asdict(_describe(cell)) for cell in rnn.reverse_cells],
        "batch_first": rnn.batch_first,
        "num_classes": network.num_classes,
        "state_dict": state,
        "scales": scales,
        "metadata": dict(metadata or {}),
    }
    with atomic_path(path, force=force) as temporary:
        torch.save(document, temporary)
        if check is not None:
            check(temporary)
    return path


def load_rnn(
    path: str | os.PathLike[str],
    *,
    gate: str | None = None,
    update: str | None = None,
    orientation: str | None = None,
) -> SequenceClassifier:
    """The classifier in a file or folder, in evaluation mode.

    Args:
        path: a file of `save_rnn`, or EdgeML's: a state dict or a folder of `.npy` files; or the
            folder of a training, whose best network is read.
        gate, update, orientation: as `strzoo.rnn.edgeml.read_network`, for EdgeML's files, which do
            not say; ours do.

    Returns:
        The network; of an int8 file, with the numbers that its int8 matrices stand for.

    Raises:
        StrzooError: it does not exist or cannot be read.
        IntegrityError: it is damaged or holds no FastGRNN classifier.
        UsageError: a nonlinearity is given for a file that names its own, or as
            `strzoo.rnn.edgeml.read_network`.
    """
    path = best_file(Path(path))
    document = _read_own(path)
    if document is None:
        return read_classifier(
            path, gate=gate or "sigmoid", update=update or "tanh", orientation=orientation
        )
    if gate or update or orientation:
        raise UsageError(
            f"{path} is strzoo's own file, which names its gates and orientation; leave the "
            "options out"
        )
    try:
        return _build(document)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error


def best_file(path: Path) -> Path:
    """`path`, or the file of the best network if it is the folder of a training.

    Raises:
        UsageError: the training in it has not ended.
        IntegrityError: the training's result does not name its best network.
    """
    if not path.is_dir() or not any(path.glob("rank_*.pth")):
        return path  # a file, or a folder of EdgeML's
    if not (path / _RESULT).exists():
        raise UsageError(f"{path} has no {_RESULT}: name one of its rank_*.pth files")
    try:
        return path / Path(str(read_json(path / _RESULT)["best"]["file"])).name
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{path / _RESULT} does not name the best network") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain values beside the weights of a file of `save_rnn`; nothing of EdgeML's files."""
    found = (_read_own(Path(path)) or {}).get("metadata")
    return dict(found) if isinstance(found, dict) else {}


def names_gates(path: str | os.PathLike[str]) -> bool:
    """Whether a file says which nonlinearities it was trained with: ours do, EdgeML's do not."""
    return _read_own(Path(path)) is not None


def _read_own(path: Path) -> dict[str, Any] | None:
    """All that a file of `save_rnn` holds; None for other files and for folders."""
    document = None if path.is_dir() or path.suffix == ".safetensors" else read_document(path)
    return document if document is not None and MARK in document else None


def _describe(cell: Any) -> _CellSpec:
    return _CellSpec(
        cell.input_size, cell.hidden_size, cell.gate, cell.update, cell.rank_w, cell.rank_u
    )


def _build(document: dict[str, Any]) -> SequenceClassifier:
    if document[MARK] != _VERSION:
        raise IntegrityError(
            f"its form is version {document[MARK]!r}, this strzoo reads {_VERSION}; install a "
            "newer strzoo"
        )
    state, scales = document.get("state_dict"), document.get("scales", {})
    if not isinstance(state, dict) or not isinstance(scales, dict):
        raise IntegrityError("it has no state_dict")
    classes = _check_size(document.get("num_classes"), "num_classes")
    try:
        with torch.device("meta"):  # nothing is drawn at random, nor allocated for a bad size
            groups = [[_build_cell(one) for one in document[n]] for n in ("cells", "reverse_cells")]
            rnn = FastGRNN.from_cells(*groups, batch_first=document.get("batch_first") is True)
            model = SequenceClassifier(rnn, classes)
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"its description of the cells is damaged ({error})") from error
    except UsageError as error:
        raise IntegrityError(str(error)) from error
    for name in ("mean", "std"):  # of a length of its own
        value = state.get(name)
        if isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == rnn.input_size:
            setattr(model, name, torch.empty_like(value))
    wanted = model.state_dict()
    for key, target in wanted.items():
        value = state.get(key)
        if not isinstance(value, Tensor):
            raise IntegrityError(f"{key} is missing")
        if key in scales:
            value = _dequantise(key, value, scales[key])
        if value.shape != target.shape or not value.is_floating_point():
            raise IntegrityError(
                f"{key} is {value.dtype} {list(value.shape)}, expected {list(target.shape)}"
            )
        if not torch.isfinite(value).all():
            raise IntegrityError(f"{key} holds a value that is not finite")
        state[key] = value
    if odd := sorted(set(state) - set(wanted)):
        raise IntegrityError(f"unexpected entry {odd[0]!r}")
    kind = state["fc.weight"].dtype
    model.load_state_dict({key: value.to(kind) for key, value in state.items()}, assign=True)
    return model.eval()


def _dequantise(key: str, value: Tensor, scale: Any) -> Tensor:
    transposed = key == "fc.weight"
    outputs = value.shape[1] if value.dim() == 2 else -1
    if not isinstance(scale, Tensor) or value.dtype != torch.int8 or scale.shape != (outputs,):
        raise IntegrityError(f"{key} is no int8 matrix with a scale for each output")
    real = value.to(scale) * scale
    return real.t().contiguous() if transposed else real


def _build_cell(values: Any) -> FastGRNNCell:
    spec = _CellSpec(**values)
    for name in ("input_size", "hidden_size"):
        _check_size(getattr(spec, name), name)
    for name in ("rank_w", "rank_u"):
        if getattr(spec, name) not in (None, LEARNED):
            _check_size(getattr(spec, name), name)
    return FastGRNNCell(**asdict(spec))


def _check_size(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value <= _LARGEST_SIZE:
        raise IntegrityError(f"{name} is {value!r}, not a size")
    return value
