"""A folder or a tar archive as a list of names whose contents can be read."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from strzoo.errors import IntegrityError, StrzooError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def is_image(name: str) -> bool:
    """Whether a file name looks like an image's; hidden files and macOS leftovers do not."""
    leaf = name.rsplit("/", 1)[-1]
    return not leaf.startswith(".") and leaf.lower().endswith(IMAGE_SUFFIXES)


class Tree(Protocol):
    """Image names with `/` between their parts, sorted, and how to read one."""

    location: str
    images: tuple[str, ...]

    def read(self, name: str) -> bytes: ...


class FolderTree:
    """All images below a folder, links followed."""

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        found: list[str] = []
        for base, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = os.path.relpath(base, folder).replace(os.sep, "/")
            prefix = "" if inside == "." else f"{inside}/"
            found += [prefix + name for name in files if is_image(name)]
        self.images = tuple(sorted(found))

    def read(self, name: str) -> bytes:
        try:
            with open(os.path.join(self.location, name), "rb") as stream:
                return stream.read()
        except OSError as error:
            raise StrzooError(f"cannot read {self.location}/{name}: {error.strerror}") from error


class TarTree:
    """The images of an uncompressed tar archive, read in place by their offsets."""

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._file: tuple[int, int] | None = None  # process id, descriptor
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and is_image(name):
                        self._places[name] = (member.offset_data, member.size)
        except tarfile.ReadError as error:
            raise IntegrityError(
                f"{path} is not a plain tar archive, or is cut off ({error}); a compressed one "
                "cannot be read in place: unpack it"
            ) from error
        except OSError as error:
            raise StrzooError(f"cannot read {path}: {error.strerror}") from error
        self.images = tuple(sorted(self._places))

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        if self._file is None or self._file[0] != os.getpid():
            self._file = (os.getpid(), os.open(self.location, os.O_RDONLY))
        content = os.pread(self._file[1], size, offset)
        if len(content) != size:
            raise StrzooError(f"{self.location} ends within {name}; fetch it again")
        return content

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if self._file is not None and self._file[0] == os.getpid():
            os.close(self._file[1])


class TreeSource:
    """The samples of a tree: `Source` over some of its images."""

    def __init__(self, tree: Tree, names: Sequence[str]) -> None:
        self._tree, self._names = tree, names

    def read(self, index: int) -> bytes:
        return self._tree.read(self._names[index])


def _refuse(error: OSError) -> None:
    raise StrzooError(f"cannot list {error.filename}: {error.strerror}") from error
