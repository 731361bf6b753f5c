"""Files with a hash of their content: a magic word, a format number, a SHA-256, the content.

    8 bytes magic | u32 format | u32 zero | u64 length | 32 bytes SHA-256 | 8 zeros | content

All numbers are little-endian. The hash finds damage; it is not a signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.borders import open_file, reading
from strzoo.errors import IntegrityError
from strzoo.files import atomic_path
from strzoo.settings import Limits

_HEAD = struct.Struct("<8sIIQ32s8x")
_LARGEST_HEADER = 64 << 20  # bytes
CONTENT = _HEAD.size  # where the content starts: on a cache line


def write_sealed(
    path: Path, magic: bytes, format: int, parts: Iterable[Any], *, force: bool = False
) -> None:
    """Write `parts` (bytes or arrays), one after the other, whole or not at all.

    Raises:
        StrzooError: the file cannot be written, or exists and `force` is False.
    """
    pieces = [memoryview(part).cast("B") for part in parts if len(part)]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    size = sum(piece.nbytes for piece in pieces)
    with atomic_path(path, force=force) as temporary, open(temporary, "wb") as stream:
        stream.write(_HEAD.pack(magic, format, 0, size, digest.digest()))
        for piece in pieces:
            stream.write(piece)


def read_header(path: Path, magic: bytes, kind: str) -> dict[str, Any]:
    """The JSON object that a sealed file's content starts with; the rest is neither read nor
    checked.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not of that kind, or damaged.
    """
    with reading(path, f"a {kind}"), open_file(path) as stream:
        head = stream.read(CONTENT + 8)
        length = int.from_bytes(head[CONTENT:], "little")
        text = stream.read(length) if length <= _LARGEST_HEADER else b""
    if not head.startswith(magic):
        raise IntegrityError(f"{path} is not a {kind}")
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is damaged: its header is not readable; compile the model again"
        ) from error
    return header


def read_sealed(path: Path, magic: bytes, format: int, kind: str) -> np.ndarray:
    """The content as uint8. `kind` names such files in messages.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not of that kind, of another format, or damaged.
    """
    with reading(path, f"a {kind}"), open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        Limits.from_env().check("bytes", size, str(path))
        whole = np.fromfile(stream, np.uint8, size)
    if len(whole) < CONTENT or whole[: len(magic)].tobytes() != magic:
        raise IntegrityError(f"{path} is not a {kind}")
    _, found, _, size, digest = _HEAD.unpack(whole[:CONTENT].tobytes())
    if found != format:
        raise IntegrityError(
            f"{path} is a {kind} of format {found}, this strzoo reads format {format}; "
            "compile the model again"
        )
    content = whole[CONTENT:]
    if len(content) != size:
        raise IntegrityError(
            f"{path} is damaged: it holds {len(content)} bytes of {size}; compile the model again"
        )
    if hashlib.sha256(content.data).digest() != digest:
        raise IntegrityError(
            f"{path} is damaged: its content has another SHA-256 than when it was written; "
            "compile the model again"
        )
    return content
