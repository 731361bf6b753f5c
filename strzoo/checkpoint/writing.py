"""Write a `Checkpoint`: the published .pth form, a bare state dict, safetensors or compact."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.arguments import checked
from strzoo.checkpoint import compact as compact_format
from strzoo.checkpoint.layouts import check_layout, to_layout
from strzoo.checkpoint.reading import build_checkpoint
from strzoo.checkpoint.record import Checkpoint
from strzoo.errors import StrzooError, UsageError, required
from strzoo.files import atomic_path, check_destination, write_error
from strzoo.sparse.selection import magnitude_layers
from strzoo.sparse.sparsify import to_dense_
from strzoo.sparse.unwrap import copy_network

SUFFIXES = (".pth", ".pt", ".safetensors")


@checked
def save_checkpoint(
    checkpoint: Checkpoint | nn.Module,
    path: str | os.PathLike[str],
    *,
    layout: str = "strzoo",
    compact: bool = False,
    half: bool = False,
    force: bool = False,
    check: Callable[[Path], object] | None = None,
    architecture: str | None = None,
) -> Path:
    """Write `checkpoint` to `path`, whole or not at all.

    A `.pth` or `.pt` in our layout has the published form (`epoch`, `arch`, `state_dict` with
    `module.` keys), which the original code reads too; in another library's layout it is the
    bare state dict that library loads. A `.safetensors` holds plain keys.

    Args:
        checkpoint: what to write; a network becomes one by `build_checkpoint`, DNW and GMP layers
            as dense ones that hold the weights they compute with.
        path: ends in .pth, .pt or .safetensors.
        layout: "strzoo", "torchvision" or "timm" (dense checkpoints only for the latter two).
        compact: bitmask and values (`.safetensors`, our layout, dense); see
            docs/compact-format.md.
        half: store convolution and classifier weights as fp16.
        force: overwrite an existing file.
        check: called with the finished file before it gets its final name; if it raises,
            `path` stays as it was.
        architecture: of a network of your own, the "package.module:function" that builds it again.

    Returns:
        `path`.

    Raises:
        UsageError: the combination is not possible.
        StrzooError: the destination is refused, or a weight does not fit fp16.
    """
    path = Path(path)
    if isinstance(checkpoint, nn.Module):
        if magnitude_layers(checkpoint):  # what they drop is in no file: it is what they compute
            checkpoint = to_dense_(copy_network(checkpoint))
        checkpoint = build_checkpoint(checkpoint, architecture=architecture)
    check_form(
        path,
        checkpoint.architecture,
        format=checkpoint.format,
        layout=layout,
        compact=compact,
        force=force,
    )
    state = to_layout(checkpoint.state_dict, layout, checkpoint.architecture)
    if half:
        state = {key: _halved(key, value) for key, value in state.items()}
    with atomic_path(path, force=force) as temporary:
        try:
            if path.suffix == ".safetensors":
                _write_safetensors(checkpoint, state, temporary, layout, compact)
            else:
                torch.save(_document(checkpoint, state, layout), temporary)
        except RuntimeError as error:
            raise _disk_error(path, error, sum(value.nbytes for value in state.values())) from error
        if check is not None:
            check(temporary)
    return path


def check_form(
    path: Path,
    architecture: str,
    *,
    format: str,
    layout: str = "strzoo",
    compact: bool = False,
    force: bool = False,
) -> None:
    """Raise unless `save_checkpoint` can write that format in that form to `path`.

    Raises:
        UsageError: the combination is not possible.
        StrzooError: the destination is refused.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    check_layout(layout, architecture)
    if format == "str" and (layout != "strzoo" or compact):
        raise UsageError(
            f"{'a compact file' if compact else 'the ' + layout + ' layout'} holds dense weights; "
            "convert the STR checkpoint to dense first"
        )
    if compact and (path.suffix != ".safetensors" or layout != "strzoo"):
        raise UsageError("a compact file ends in .safetensors and keeps the strzoo layout")
    check_destination(path, force=force)


def _document(checkpoint: Checkpoint, state: Mapping[str, Tensor], layout: str) -> dict[str, Any]:
    """What torch.save gets. Views are cloned: torch.save would write their whole storage."""
    state = {
        key: value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
        for key, value in state.items()
    }
    if layout != "strzoo":
        # torch loads such a state dict as any other; here it says what keys and shapes do not.
        bare: OrderedDict[str, Any] = OrderedDict(state)
        bare._metadata = {"": {"version": 1, "strzoo": checkpoint.declaration()}}  # type: ignore[attr-defined]
        return bare
    return {
        **checkpoint.metadata,
        "epoch": checkpoint.metadata.get("epoch", 0),
        "arch": checkpoint.spec.record.published,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "strzoo": checkpoint.declaration(),
    }


def _write_safetensors(
    checkpoint: Checkpoint, state: Mapping[str, Tensor], path: Path, layout: str, compact: bool
) -> None:
    with required("safetensors", "writing a .safetensors file"):
        from safetensors import SafetensorError
        from safetensors.torch import save_file

    header = {"format": "pt"}
    tensors = dict(state)
    if compact:
        tensors, header = compact_format.encode(state)
    header["strzoo"] = json.dumps(checkpoint.declaration())
    header["metadata"] = json.dumps(dict(checkpoint.metadata))
    if foreign := check_layout(layout, checkpoint.architecture, checkpoint.spec.options):
        header["create_with"] = foreign.creation
    try:
        save_file(_separate(tensors), path, metadata=header)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors with storage of their own: safetensors stores no shared memory, such as
    a threshold that all layers have in common."""
    result, seen = {}, set()
    for key, value in tensors.items():
        value = value.contiguous()
        storage = value.untyped_storage().data_ptr()
        result[key] = value.clone() if storage in seen else value
        seen.add(storage)
    return result


def _halved(key: str, value: Tensor) -> Tensor:
    if value.dim() < 2 or value.dtype != torch.float32:  # BatchNorm and thresholds stay exact
        return value
    half = value.half()
    if torch.isinf(half).any():
        raise StrzooError(f"{key} has a weight beyond fp16's largest value, 65504; leave out half")
    return half


def _disk_error(path: Path, error: Exception, size: int) -> StrzooError:
    """Say why writing failed: torch reports a full disk as an inconsistency of its own."""
    text = " ".join(str(error).split())
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(code) in text or f"os error {code}" in text:
            return write_error(path, OSError(code, os.strerror(code)))
    if shutil.disk_usage(path.parent).free < size:
        return write_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return StrzooError(f"cannot write {path}: {text[:200]}")
