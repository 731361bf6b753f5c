"""Files with a hash of their content: a magic word, a format number, a SHA-256, the content.

    8 bytes magic | u32 format | u32 zero | u64 length | 32 bytes SHA-256 | 8 zeros | content

All numbers are little-endian. The hash finds damage; it is not a signature.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.borders import open_file, reading
from strzoo.errors import IntegrityError
from strzoo.files import atomic_path
from strzoo.settings import Limits

_HEAD = struct.Struct("<8sIIQ32s8x")
_LARGEST_HEADER = 64 << 20  # bytes
_BLOCK = 1 << 20  # bytes that are hashed at a time
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


def read_header(path: Path | bytes, magic: bytes, kind: str) -> dict[str, Any]:
    """The JSON object that a sealed file's content starts with; the rest is neither read nor
    checked.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not of that kind, or damaged.
    """
    name = shown(path)
    with reading(name, f"a {kind}"), _open(path) as stream:
        head = stream.read(CONTENT + 8)
        length = int.from_bytes(head[CONTENT:], "little")
        text = stream.read(length) if length <= _LARGEST_HEADER else b""
    if not head.startswith(magic):
        raise IntegrityError(f"{name} is not a {kind}")
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{name} is damaged: its header is not readable; compile the model again"
        ) from error
    return header


def shown(path: Path | bytes) -> str:
    """How messages call a file, or the bytes of one."""
    return "the given bytes" if isinstance(path, bytes) else str(path)


def _open(path: Path | bytes) -> io.BufferedReader | io.BytesIO:
    return io.BytesIO(path) if isinstance(path, bytes) else open_file(path)


class SealedFile:
    """A sealed file whose content was checked, to be read piece by piece.

    Args:
        path: of the file, or its bytes.
        magic: that it must have; formats: one of which it must have.
        kind: names such files in messages.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is not of that kind, of another format, or damaged.
    """

    def __init__(
        self, path: Path | bytes, magic: bytes, formats: tuple[int, ...], kind: str
    ) -> None:
        self._path, self._kind = shown(path), kind
        with reading(self._path, f"a {kind}"):
            self._stream = _open(path)
            try:
                size = self._stream.seek(0, os.SEEK_END)
                self._stream.seek(0)
                Limits.from_env().check("bytes", size, self._path)
                self.size = self._check(magic, formats, kind)
            except BaseException:
                self._stream.close()
                raise

    def __enter__(self) -> SealedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def read(self, start: int, size: int, allocate: Callable[[int], np.ndarray]) -> np.ndarray:
        """`size` bytes of the content from `start` on, uint8, in memory that `allocate` gives.

        Raises:
            ValueError: the content has no such bytes, or none any more.
            StrzooError: the file cannot be read any more.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise ValueError(f"{size} bytes at {start} of {self.size}")
        room = allocate(size)
        with reading(self._path, f"a {self._kind}"):
            self._stream.seek(CONTENT + start)
            found = self._stream.readinto(room.data) if size else 0
        if found != size:
            raise ValueError("it has changed while it was read")
        return room

    def _check(self, magic: bytes, formats: tuple[int, ...], kind: str) -> int:
        head = self._stream.read(CONTENT)
        if len(head) < CONTENT or not head.startswith(magic):
            raise IntegrityError(f"{self._path} is not a {kind}")
        _, found, _, size, digest = _HEAD.unpack(head)
        if found not in formats:
            known = " or ".join(map(str, formats))
            raise IntegrityError(
                f"{self._path} is a {kind} of format {found}, this strzoo reads format {known}; "
                "compile the model again"
            )
        actual, length = hashlib.sha256(), 0
        while block := self._stream.read(_BLOCK):
            actual.update(block)
            length += len(block)
        if length != size:
            raise IntegrityError(
                f"{self._path} is damaged: it holds {length} bytes of {size}; compile the model "
                "again"
            )
        if actual.digest() != digest:
            raise IntegrityError(
                f"{self._path} is damaged: its content has another SHA-256 than when it was "
                "written; compile the model again"
            )
        return length
