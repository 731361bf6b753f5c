"""The containers that torch has written over the years, each read without running anything.

- zip: since torch 1.6; a pickle `data.pkl` and one member for each storage. TorchScript's files are
  such, too, and hold their weights in the same way.
- pickle: before; four pickles one after the other, then the storages.
- tar: before 0.1.10 (2017); members `storages`, `tensors` and `pickle`.
- a plain pickle (`pickle.dump`), whose tensors hold a pickle file each.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from strzoo.borders import open_file
from strzoo.checkpoint.pickles import read_pickle
from strzoo.checkpoint.rebuilding import Global
from strzoo.checkpoint.stored import Memory, Storage, StoredTensor, storage_dtype
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch's before 1.6
_SMALL = 16 << 20  # bytes of a pickle that is read at once
_LARGEST_COUNT = 1 << 60
_MOST_MEMBERS = 64  # of a tar archive that are looked at
_LARGEST_DIRECTORY = 32 << 20  # bytes of a zip's table of contents, some 300,000 members
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: length of its name, of its extra field


@dataclass(frozen=True)
class Document:
    """What a file holds: plain values, `StandIn`s, and descriptions of tensors.

    `is_script` says that TorchScript wrote it; `size` is the file's in bytes.
    """

    value: Any
    size: int
    is_script: bool = False


class _Window(io.RawIOBase):
    """Part of a file as a file. A read for more than is left gives what is left."""

    def __init__(self, stream: IO[bytes], start: int, end: int, largest: int | None = None) -> None:
        self._stream, self._start, self._end = stream, start, end
        self._largest = end - start if largest is None else largest
        stream.seek(start)

    def read(self, size: int | None = -1) -> bytes:
        left = self._end - self._stream.tell()
        if size is None or size < 0 or size > left:
            size = max(left, 0)
        if size > self._largest:
            raise ValueError(f"{size:,} bytes where at most {self._largest:,} are expected")
        return self._stream.read(size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._stream.readline(max(self._end - self._stream.tell(), 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._stream.tell(), os.SEEK_END: self._end}
        place = base[whence] + offset
        if not self._start <= place:
            raise ValueError("a place before the start")
        return self._stream.seek(min(place, self._end)) - self._start

    def tell(self) -> int:
        return self._stream.tell() - self._start

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def read_zip(path: Path, limits: Limits) -> Document:
    """A file of `torch.save` since 1.6, or of TorchScript.

    Raises:
        IntegrityError: it is another kind of archive, or compressed.
        Exception: of any kind, if it is damaged.
    """
    size, name = path.stat().st_size, os.fspath(path)
    memory = Memory(name, size)
    with open_file(path) as stream, open_file(path) as content:
        directory = _Window(stream, 0, size, _LARGEST_DIRECTORY)
        with zipfile.ZipFile(cast(IO[bytes], directory)) as archive:
            members = {member.filename: member for member in archive.infolist()}
        found = [member for member in members if member.rpartition("/")[2] == "data.pkl"]
        if not found:
            raise IntegrityError(f"{name} {_describe_archive(list(members))}")
        folder = min(found, key=len).removesuffix("data.pkl")

        def place(member: str) -> tuple[int, int]:
            return _locate(stream, members[folder + member], name)

        order = (
            _Window(stream, *place("byteorder")).read() if f"{folder}byteorder" in members else b""
        )
        storages: dict[Any, Storage] = {}

        def persistent(pid: Any) -> Storage:
            kind, type_of_storage, key, _, count, *_ = pid
            if key not in storages:
                storage = _new_storage(kind, type_of_storage, count)
                storage.swapped = order == b"big"
                if f"{folder}data/{key}" in members:  # else it is missed when it is asked for
                    storage.start, end = place(f"data/{key}")
                    storage.memory = memory if storage.bytes <= end - storage.start else None
                storages[key] = storage
            return storages[key]

        pickled = _Window(content, *place("data.pkl"))
        start, end = place("data.pkl")
        fast = io.BytesIO(pickled.read()) if end - start <= _SMALL else pickled
        value = read_pickle(fast, name, limits, persistent)
    return Document(value, size, is_script=f"{folder}constants.pkl" in members)


def _locate(stream: IO[bytes], member: zipfile.ZipInfo, name: str) -> tuple[int, int]:
    """Where a member's bytes begin and end in the file."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise IntegrityError(
            f"{name} is a compressed archive; torch writes uncompressed ones: unpack it and pack "
            "it without compression (zip -0)"
        )
    stream.seek(member.header_offset)
    lengths = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + sum(lengths)
    return start, start + member.file_size


def _describe_archive(members: list[str]) -> str:
    if any(m.rpartition("/")[2] == "model.json" for m in members):
        return (
            "is an exported program or a TorchScript file of torch before 1.4, which has no state "
            "dict; load it with torch and save its state_dict()"
        )
    inside = [m for m in members if m.endswith((".pth", ".pt", ".bin", ".ckpt", ".safetensors"))]
    if inside:
        return f"is a zip archive that holds {inside[0][:80]!r}; unpack it and give that file"
    first = f"; its first member is {members[0][:80]!r}" if members else ""
    return f"is a zip archive, but none that torch.save wrote: it has no data.pkl{first}"


def read_pickles(path: Path, limits: Limits) -> Document:
    """A file of `torch.save` before 1.6, or of `pickle.dump`. Raises as `read_zip`."""
    size, name = path.stat().st_size, os.fspath(path)
    with open_file(path) as stream:
        value = _read_pickles(_Window(stream, 0, size), Memory(name, size), name, limits)
    return Document(value, size)


def _read_pickles(
    stream: _Window, memory: Memory, name: str, limits: Limits, *, inside: bool = False
) -> Any:
    def nested(content: bytes) -> Any:
        if inside:
            raise ValueError("files inside files inside files")
        within = Memory(name, len(content), content)
        window = _Window(io.BytesIO(content), 0, len(content))
        return _read_pickles(window, within, name, limits, inside=True)

    first = read_pickle(stream, name, limits, _no_persistent, nested)
    if first != _MAGIC:
        return first
    _protocol, _system = (read_pickle(stream, name, limits, _no_persistent) for _ in range(2))
    roots: dict[Any, Storage] = {}
    views: dict[Any, tuple[Storage, Storage, int]] = {}

    def persistent(pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":  # with its source text
            return rest[0]
        type_of_storage, key, _, count, view = rest
        if key not in roots:
            roots[key] = _new_storage(kind, type_of_storage, count)
        if view is None:
            return roots[key]
        view_key, offset, length = view
        if view_key not in views:
            made = _new_storage(kind, type_of_storage, length)
            views[view_key] = made, roots[key], _count(offset)
        return views[view_key][0]

    value = read_pickle(stream, name, limits, persistent, nested)
    for key in read_pickle(stream, name, limits, _no_persistent):
        roots[key].place(memory, stream)
    for view, root, offset in views.values():
        view.lie_in(root, offset)
    return value


def read_tar(path: Path, limits: Limits) -> Document:
    """A file of `torch.save` before 0.1.10. Raises as `read_zip`."""
    size, name = path.stat().st_size, os.fspath(path)
    memory = Memory(name, size)
    with open_file(path) as stream:
        places = _list_tar(_Window(stream, 0, size))
        if missing := [part for part in ("storages", "tensors", "pickle") if part not in places]:
            raise IntegrityError(
                f"{name} is a tar archive, but none that torch.save wrote: it has no "
                f"{missing[0]!r}; unpack it and give the checkpoint inside"
            )
        objects: dict[Any, Any] = {}
        window = _Window(stream, *places["storages"])
        for _ in range(_read_count(window, name, limits)):
            key, _, type_of_storage = read_pickle(window, name, limits, _no_persistent)
            objects[key] = _new_storage("storage", type_of_storage, 0)
            objects[key].place(memory, window, places["storages"][0], counts=True)
        for key, root, offset, length in read_pickle(window, name, limits, _no_persistent):
            objects[key] = Storage(objects[root].dtype, _count(length))
            objects[key].lie_in(objects[root], _count(offset))
        window = _Window(stream, *places["tensors"])
        for _ in range(_read_count(window, name, limits)):
            key, storage, _ = read_pickle(window, name, limits, _no_persistent)
            objects[key] = _read_tensor(window, objects[storage])

        def persistent(pid: Any) -> Any:
            return pid[0] if isinstance(pid, tuple) else objects[int(pid)]

        value = read_pickle(_Window(stream, *places["pickle"]), name, limits, persistent)
    return Document(value, size)


def _list_tar(stream: _Window) -> dict[str, tuple[int, int]]:
    """Where the plain files of a tar archive begin and end."""
    found = {}
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as archive:
        for _ in range(_MOST_MEMBERS):
            member = archive.next()
            if member is None:
                break
            if member.isreg() and not member.issparse():
                name = member.name.removeprefix("./")
                found[name] = member.offset_data, member.offset_data + member.size
    return found


def _read_tensor(window: _Window, storage: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    (axes,) = struct.unpack("<i4x", window.read(8))
    numbers = struct.unpack(f"<{2 * axes + 1}q", window.read(8 * (2 * axes + 1)))
    return StoredTensor(
        storage, storage.dtype, numbers[-1], numbers[:axes], numbers[axes : 2 * axes]
    )


def _read_count(window: _Window, name: str, limits: Limits) -> int:
    return _count(read_pickle(window, name, limits, _no_persistent))


def _new_storage(kind: Any, type_of_storage: Any, count: Any) -> Storage:
    if kind != "storage" or not isinstance(type_of_storage, Global):
        raise ValueError(f"a persistent object that is no storage ({str(kind)[:40]})")
    return Storage(storage_dtype(type_of_storage.name), _count(count))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST_COUNT:
        raise ValueError("a size that is no size")
    return value


def _no_persistent(pid: Any) -> Any:
    raise ValueError("a persistent object where there can be none")
