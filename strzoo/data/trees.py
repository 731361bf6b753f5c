"""A folder or a tar archive as a list of names whose contents can be read.

The one lister of images: evaluation, training, prediction and calibration all use it, so that
every command sees the same files.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

from strzoo.borders import BoundedStream, open_file, read_file, reading
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Limits

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
# What operating systems, file managers and disk stations leave behind, besides hidden files.
_JUNK = {
    "__macosx",
    "@eadir",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "#recycle",
}
_UNPACK = "a compressed archive cannot be read in place: unpack it"
_MEMBER = 200  # bytes that the list of an archive takes for each member
_MOST_REPEATS = 1000  # how often links may lead to folders that are listed already


def is_junk(name: str) -> bool:
    """Whether a file or folder (its last part) is hidden or a leftover of some system."""
    return name.startswith(".") or name.lower() in _JUNK


def is_image(name: str) -> bool:
    """Whether a file name looks like an image's, in no hidden or leftover folder."""
    *folders, leaf = name.split("/")
    return leaf.lower().endswith(IMAGE_SUFFIXES) and not any(map(is_junk, [*folders, leaf]))


class Tree(Protocol):
    """Image names with `/` between their parts, sorted, and how to read one. `notes` says what was
    passed over that a reader should know of."""

    location: str
    images: tuple[str, ...]
    notes: tuple[str, ...]

    def read(self, name: str) -> bytes: ...


class FolderTree:
    """All images below a folder, links followed; a link to a folder that it lies in is not.

    `folders` are the names directly below it that are folders, sorted.

    Raises:
        UsageError: it is no folder.
        StrzooError: it cannot be listed.
        IntegrityError: folders nest deeper than the limits allow, or links multiply them.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.location = str(folder)
        self.folders: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._limits = limits or Limits.from_env()
        self._loops: list[str] = []
        self._seen: set[tuple[int, int]] = set()
        self._repeats = 0
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder")
        self.images = tuple(sorted(self._list("", ())))
        if self._loops:
            count = len(self._loops)
            self.notes = (
                f"{count} links to folders around them are passed over: {self._loops[0]}",
            )

    def read(self, name: str) -> bytes:
        return read_file(os.path.join(self.location, name), self._limits)

    def _list(self, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        path = os.path.join(self.location, prefix)
        self._limits.check("nesting", len(above), path)
        try:
            found = os.stat(path)
            here = (found.st_dev, found.st_ino)
            if here in above:
                self._loops.append(path)
                return
            self._repeats += here in self._seen
            self._seen.add(here)
            if self._repeats > _MOST_REPEATS:
                raise IntegrityError(f"links below {self.location} lead to {path} over and over")
            with os.scandir(path) as entries:
                kept = [(e.name, e.is_dir()) for e in entries if not is_junk(e.name)]
        except OSError as error:
            raise StrzooError(f"cannot list {path}: {error.strerror}") from error
        inner = sorted(name for name, is_folder in kept if is_folder)
        if not prefix:
            self.folders = tuple(inner)
        # A broken link and what is no regular file stay in the list: reading names and refuses it.
        yield from (prefix + name for name, is_folder in kept if not is_folder and is_image(name))
        for name in inner:
            yield from self._list(f"{prefix}{name}/", (*above, here))


class TarTree:
    """The images of an uncompressed tar archive, read in place by their offsets.

    Args:
        path: the archive.
        all_files: list every file that is no leftover, not only images.
        most: members to look at; by default all.

    Raises:
        StrzooError: it cannot be read.
        IntegrityError: it is not a plain tar archive, or damaged.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        *,
        all_files: bool = False,
        most: int | None = None,
    ) -> None:
        self.location = str(path)
        self.notes: tuple[str, ...] = ()
        self._limits = limits or Limits.from_env()
        self._places: dict[str, tuple[int, int]] = {}
        self._file: tuple[int, int] | None = None  # process id, descriptor
        with reading(path, "a plain tar archive", hint=_UNPACK):
            stream = BoundedStream(open_file(path), str(path), self._limits, total=False)
            with stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                self._list(islice(archive, most), archive, all_files)
        self.images = tuple(sorted(self._places))

    def _list(
        self, members: Iterable[tarfile.TarInfo], archive: tarfile.TarFile, all_files: bool
    ) -> None:
        special = 0
        for number, member in enumerate(members, 1):
            self._limits.check("bytes", number * _MEMBER, f"the list of {self.location}")
            name = member.name.removeprefix("./")
            wanted = not any(map(is_junk, name.split("/"))) if all_files else is_image(name)
            if wanted and member.isreg() and not member.issparse():
                self._places[name] = (member.offset_data, member.size)
            elif wanted and not member.isdir():
                special += 1
            archive.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
        if special:
            self.notes = (f"{special} links and special members of the archive are passed over",)

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        self._limits.check("bytes", size, f"{self.location}, {name},")
        if self._file is None or self._file[0] != os.getpid():
            with reading(self.location, "a tar archive"), open_file(self.location) as stream:
                self._file = (os.getpid(), os.dup(stream.fileno()))
        content = os.pread(self._file[1], size, offset)
        if len(content) != size:
            raise StrzooError(f"{self.location} ends within {name}; fetch it again")
        return content

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None and self._file[0] == os.getpid():  # type: ignore[index]
            os.close(self._file[1])  # type: ignore[index]


class TreeSource:
    """The samples of a tree: `Source` over some of its images."""

    def __init__(self, tree: Tree, names: Sequence[str]) -> None:
        self._tree, self._names = tree, names

    def read(self, index: int) -> bytes:
        return self._tree.read(self._names[index])


def read_member(path: Path, leaf: str, limits: Limits | None = None) -> bytes:
    """The first regular member of a tar archive whose last part is `leaf`; gzip is undone.

    Raises:
        StrzooError: the archive cannot be read.
        IntegrityError: it is damaged, larger than the limits allow, or has no such member.
    """
    import gzip

    limits = limits or Limits.from_env()
    with reading(path, "a tar archive", hint="fetch it again"), open_file(path) as stream:
        packed = stream.peek(2)[:2] == b"\x1f\x8b"
        inner = gzip.GzipFile(fileobj=stream) if packed else stream
        bounded = BoundedStream(inner, str(path), limits, total=True)
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            for member in archive:
                limits.check("bytes", member.offset_data + member.size, f"{path}, unpacked,")
                if member.isreg() and member.name.rsplit("/", 1)[-1] == leaf:
                    found = archive.extractfile(member)
                    assert found is not None
                    return found.read()
    raise IntegrityError(f"{path} holds no {leaf}")
