"""Read a checkpoint file of any known format into a `Checkpoint`, strictly and safely.

Pickles are loaded with `weights_only=True` always: they can hold tensors and plain values, and
cannot run code.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strzoo.checkpoint import compact
from strzoo.checkpoint.layouts import fit_head, from_layout
from strzoo.checkpoint.recognise import (
    THRESHOLD,
    check_state,
    declare,
    drop_thresholded_copies,
    infer_spec,
    is_name_of,
)
from strzoo.checkpoint.record import Checkpoint, TrainedOn
from strzoo.errors import IntegrityError, StrzooError, required
from strzoo.files import refuse_foreign
from strzoo.models.registry import list_architectures
from strzoo.strict_json import build_record, convert

log = logging.getLogger(__name__)

# Wrappers whose prefix training code leaves on every key.
_PREFIXES = ("module.", "_orig_mod.")


def read_checkpoint(path: str | os.PathLike[str], *, architecture: str | None = None) -> Checkpoint:
    """Read a published `.pth` (old pickle or zip), a bare state dict, or a safetensors file.

    Accepts keys with and without `module.`, our layout, torchvision's and timm's, optimizer
    state beside the weights (ignored), and the double-size STR files (the thresholded copies
    are dropped). Half-precision weights become fp32.

    Args:
        path: the file.
        architecture: expected architecture; by default whatever the file holds.

    Returns:
        The checked weights with plain keys in our layout, and what was stored beside them.

    Raises:
        StrzooError: the file is missing or unreadable.
        IntegrityError: it is empty, a web page, damaged, tries to execute code, belongs to
            another architecture, has missing, unexpected or misshapen entries, or a value is
            not finite. The message names the first offender.
    """
    path = Path(path)
    state, metadata = _read_raw(path)
    try:
        return build_checkpoint(state, metadata, path=path, architecture=architecture)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a file as it is, keys and layout untouched. Errors as `read_checkpoint`."""
    state, _ = _read_raw(Path(path))
    return _only_tensors(state)


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All that a `.pth` file holds, beside the state dict too: tensors and plain values.

    Raises:
        StrzooError: the file is missing or unreadable.
        IntegrityError: it is damaged, no `.pth` file, or wants more than tensors and plain values.
    """
    path = Path(path)
    kind = _sniff(path)
    document = None if kind == "safetensors" else _unpickle(path, kind)
    if not isinstance(document, dict):
        raise IntegrityError(f"{path} is not a checkpoint in the published form (.pth)")
    return document


def _read_raw(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    kind = _sniff(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    return _split(path, _unpickle(path, kind))


def build_checkpoint(
    source: nn.Module | Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    path: Path | None = None,
    architecture: str | None = None,
    trained_on: TrainedOn | None = None,
) -> Checkpoint:
    """A checked `Checkpoint` from a network of this zoo, or from a raw state dict.

    Args:
        source: a network made by `create_model` (sparse layers included), or its state dict.
        metadata: plain values to keep beside the weights, such as `epoch` or `best_acc1`.
        path: the file the weights came from, for messages.
        architecture: expected architecture; by default whatever the weights are.
        trained_on: the data; by default what `metadata["strzoo"]` says.

    Returns:
        The weights with plain keys in our layout, complete and finite.

    Raises:
        IntegrityError: as `read_checkpoint`.
    """
    metadata = dict(metadata or {})
    state: Mapping[str, Any]
    if isinstance(source, nn.Module):
        state = {key: value.detach().cpu() for key, value in source.state_dict().items()}
        metadata.setdefault("strzoo", declare(source))
    else:
        state = source
    clean = from_layout(drop_thresholded_copies(_strip_prefixes(_only_tensors(state))))
    clean = {
        key: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        for key, value in clean.items()
    }
    declared = metadata.get("arch")
    own = metadata.pop("strzoo", None)
    spec = infer_spec(clean, own, declared)
    for expected, where in ((declared, "its arch field"), (architecture, "the request")):
        if expected is not None and not is_name_of(expected, spec.record):
            raise IntegrityError(
                f"the weights are a {spec.architecture}'s, but {where} says {expected!r}; "
                f"known architectures are {', '.join(list_architectures())}"
            )
    clean = fit_head(clean, spec)
    check_state(clean, spec, _declared_dense(own))
    format = "str" if any(key.endswith(THRESHOLD) for key in clean) else "dense"
    trained_on = trained_on or _read_trained_on(own, spec.num_classes)
    return Checkpoint(spec, format, clean, metadata, path, trained_on)


def _declared_dense(own: Any) -> tuple[str, ...]:
    """The layers without a threshold that the `strzoo` entry of a file names."""
    names = own.get("dense_layers", []) if isinstance(own, Mapping) else []
    found: tuple[str, ...] = convert(tuple[str, ...], names, "strzoo.dense_layers")
    return found


def _read_trained_on(own: Any, num_classes: int) -> TrainedOn | None:
    if not isinstance(own, Mapping) or own.get("trained_on") is None:
        return None
    found = build_record(TrainedOn, own["trained_on"], "strzoo.trained_on")
    if found.class_names and len(found.class_names) != num_classes:
        raise IntegrityError(
            f"strzoo.trained_on names {len(found.class_names)} classes, the network has "
            f"{num_classes} outputs"
        )
    return found


def _sniff(path: Path) -> str:
    """The kind of a file from its first bytes: "zip", "pickle" or "safetensors"."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        raise StrzooError(f"{path} does not exist") from None
    except OSError as error:
        raise StrzooError(f"cannot read {path}: {error.strerror}") from error
    if size == 0:
        raise IntegrityError(f"{path} is empty; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    refuse_foreign(path, "a checkpoint")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    raise IntegrityError(
        f"{path} is not a checkpoint: it starts with {head[:8]!r}; expected a torch .pth "
        "(zip or pickle) or a safetensors file"
    )


def _unpickle(path: Path, kind: str) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_globals()):
            # Old pickles use TypedStorage; torch warns of it on every load.
            warnings.simplefilter("ignore")
            # mmap: the optimizer state of a training checkpoint is never read from disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except OSError as error:
        if error.errno == errno.EINVAL:  # the mapping of a file that was cut off
            raise IntegrityError(f"{path} is damaged or truncated; fetch it again") from error
        raise StrzooError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        text = " ".join(str(error).split())
        if "Unsupported global" in text or "weights_only" in text.lower():
            name = text.partition("GLOBAL ")[2].split(" ")[0] or "an unknown object"
            raise IntegrityError(
                f"{path} is refused: its pickle wants {name}, and only tensors and plain values "
                "are loaded; it may be damaged or malicious"
            ) from error
        raise IntegrityError(
            f"{path} is damaged or truncated ({type(error).__name__}); fetch it again"
        ) from error


def _numpy_globals() -> list[Any]:
    """What numpy scalars in optimizer state need: no callable here can do more than build one."""
    try:
        multiarray = importlib.import_module("numpy._core.multiarray")
        scalar = multiarray.scalar
    except (ImportError, AttributeError):  # numpy before 2
        scalar = importlib.import_module("numpy.core.multiarray").scalar
    names = ("float16", "float32", "float64", "int32", "int64", "bool")
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *{type(np.dtype(name)) for name in names},
    ]


def _split(path: Path, value: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The state dict of an unpickled file, and the plain values beside it."""
    if not isinstance(value, Mapping):
        raise IntegrityError(f"{path} holds a {type(value).__name__}, not a state dict")
    if "state_dict" not in value:
        return value, {}
    state = value["state_dict"]
    if not isinstance(state, Mapping):
        raise IntegrityError(f"{path}: state_dict is a {type(state).__name__}, not a mapping")
    metadata = {
        str(key): item.item() if isinstance(item, np.generic) else item
        for key, item in value.items()
        if isinstance(item, str | int | float | bool | np.generic) or key == "strzoo"
    }
    return state, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with required("safetensors", f"reading {path}"):
        from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            state = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"{path} is a damaged safetensors file ({' '.join(str(error).split())}); fetch it again"
        ) from error
    except OSError as error:
        raise StrzooError(f"cannot read {path}: {error}") from error
    try:
        if header.get("format") == compact.FORMAT:
            state = compact.decode(state, header)
        metadata = json.loads(header.get("metadata", "{}"))
        if "strzoo" in header:
            metadata["strzoo"] = json.loads(header["strzoo"])
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: its metadata is not valid JSON: {error}") from error
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from error
    return state, metadata


def _only_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    if not state:
        raise IntegrityError("the state dict is empty")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise IntegrityError(f"entry {key!r} is a {type(value).__name__}, not a tensor")
    return dict(state)


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
