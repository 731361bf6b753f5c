"""Hashes of files and networks: what a cached result belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strzoo.borders import check_regular, open_file, reading
from strzoo.errors import StrzooError
from strzoo.files import INDEX_SUFFIX, sha256_file


def read_hash(path: Path) -> str:
    """SHA-256 of a regular file; of an index of weights, of the files that it names, too.

    Raises:
        StrzooError: it cannot be read.
        IntegrityError: it is a folder, a device or the like.
    """
    with reading(path, "a readable file"):
        check_regular(path.stat().st_mode, path)
        digest = sha256_file(path)
        if not path.name.endswith(INDEX_SUFFIX):
            return digest
    from strzoo.checkpoint.parts import list_parts

    with reading(path, "a readable file"):
        parts = list_parts(path)[1]
    digest += "".join(map(sha256_file, parts))
    return hashlib.sha256(digest.encode()).hexdigest()


def file_stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file does, without reading it.

    Raises:
        StrzooError: there is no such file.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StrzooError(f"{path} does not exist") from None
    except OSError as error:
        raise StrzooError(f"cannot read {path}: {error.strerror or error}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


# A key that ONNX writes for every tensor whose values are in another file.
_EXTERNAL = b"location"


def hash_onnx(path: Path) -> str:
    """SHA-256 of an ONNX file, those that hold its weights included. Needs onnx only for these.

    Raises:
        StrzooError, IntegrityError: a file cannot be read, or is no ONNX model.
    """
    digest = read_hash(path)
    if not _mentions(path, _EXTERNAL):
        return digest
    from strzoo.onnx.files import list_external

    files = list_external(path)
    digest += "".join(map(read_hash, files))
    return hashlib.sha256(digest.encode()).hexdigest() if files else digest


def _mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds `word` anywhere."""
    before = b""
    with reading(path, "an ONNX model"), open_file(path) as stream:
        while block := stream.read(1 << 20):
            if word in before + block:
                return True
            before = block[-len(word) :]
    return False


def hash_tensors(state: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict."""
    import torch

    digest = hashlib.sha256()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            continue
        value = value.detach().cpu().contiguous()
        described = f"{name} {value.dtype} {tuple(value.shape)}\n"
        digest.update(described.encode("utf-8", "surrogatepass"))
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
