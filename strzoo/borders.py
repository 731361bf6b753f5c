"""Where files from outside come in: opened only if they are regular, bounded, errors in one line.

Readers of foreign formats use parsers that raise whatever they like (pickle, pyarrow, PIL, csv,
protobuf). `reading` is the one place that turns it into an error of ours; `read_file`, `read_text`
and `open_file` refuse what is no regular file (a FIFO, a device, a socket), which could block or
never end, and what is larger than `Limits` allow.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from strzoo.errors import IntegrityError, StrzooError
from strzoo.settings import Limits

_LONGEST_CAUSE = 200  # characters of a foreign message; some repeat the whole input
# Byte order marks, the longer first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass
class Place:
    """Where in a file its reader is; the error says it. "" is the file as a whole."""

    at: str = ""


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str, *, hint: str = "") -> Iterator[Place]:
    """Whatever a parser raises within the block becomes one line: file, place and cause.

    Args:
        path: the file that is read.
        kind: what it should be, with its article: "a parquet file".
        hint: what to do about it.

    Yields:
        The place, whose `at` the reader may set ("line 3", "row group 0").

    Raises:
        StrzooError: the file cannot be read, or the memory does not suffice. Errors of ours pass
            as they are.
        IntegrityError: anything else that was raised.
    """
    place = Place()
    try:
        yield place
    except StrzooError:
        raise
    except MemoryError as error:
        raise StrzooError(f"{_where(path, place)} does not fit in the memory") from error
    except FileNotFoundError as error:
        raise StrzooError(f"{error.filename or path} does not exist") from error
    except OSError as error:
        if error.errno is None:  # pyarrow and PIL say so that the content is damaged
            raise _damaged(path, kind, place, error, hint) from error
        reason = error.strerror or str(error)
        raise StrzooError(f"cannot read {error.filename or path}: {reason}") from error
    except Exception as error:  # foreign parsers share no base class
        raise _damaged(path, kind, place, error, hint) from error


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Integrity errors within the block begin with the file, where they do not name it."""
    try:
        yield
    except IntegrityError as error:
        if os.fspath(path) in str(error):
            raise
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def _damaged(
    path: str | os.PathLike[str], kind: str, place: Place, error: Exception, hint: str
) -> IntegrityError:
    cause = shorten_cause(error)
    return IntegrityError(
        f"{_where(path, place)} is not {kind}, or is damaged ({cause})"
        + (f"; {hint}" if hint else "")
    )


def shorten_cause(error: BaseException, length: int = _LONGEST_CAUSE) -> str:
    """What an exception says, in one line of bounded length; its class if it says nothing."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"no {text}"
    if not text or text.isdigit():
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _where(path: str | os.PathLike[str], place: Place) -> str:
    return f"{os.fspath(path)}, {place.at}," if place.at else os.fspath(path)


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """`path` for reading, links followed. Nothing blocks: what is no regular file is not opened.

    Raises:
        IntegrityError: it is a folder, a FIFO, a socket or a device.
        OSError: it cannot be opened.
    """
    check_regular(os.stat(path).st_mode, path)
    # Without blocking, in case it has become a FIFO meanwhile.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        check_regular(os.fstat(descriptor).st_mode, path)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether a path can be given to a library that takes UTF-8 only. Linux allows any bytes."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path of the file in UTF-8, within the block: `path`, or that of an open descriptor.

    Raises:
        StrzooError: the system has no paths of descriptors.
        IntegrityError, OSError: as `open_file`.
    """
    if is_utf8(path):
        yield os.fspath(path)
        return
    with open_file(path) as stream:
        found = f"/dev/fd/{stream.fileno()}"
        if not os.path.exists(found):
            raise StrzooError(f"the path {os.fspath(path)} is not UTF-8; rename the file or folder")
        yield found


def check_regular(mode: int, path: str | os.PathLike[str]) -> None:
    """Raise an IntegrityError unless `mode` (of os.stat) is a regular file's."""
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "special")
        raise IntegrityError(f"{os.fspath(path)} is {kind}, not a file")


def read_file(
    path: str | os.PathLike[str], limits: Limits | None = None, *, limit: str = "bytes"
) -> bytes:
    """The content of a regular file.

    Args:
        limits: by default those of the environment.
        limit: the one that holds for its size.

    Raises:
        StrzooError: it cannot be read.
        IntegrityError: it is no regular file, or larger than the limit.
    """
    limits = limits or Limits.from_env()
    with reading(path, "a readable file"), open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        limits.check(limit, size, os.fspath(path))
        content = stream.read(size + 1)
        if len(content) > size:  # files of /proc have no size, and others may grow
            content += stream.read(getattr(limits, limit) - size)
            limits.check(limit, len(content), os.fspath(path))
        return content


def read_text(path: str | os.PathLike[str], kind: str, limits: Limits | None = None) -> str:
    """The text in a regular file: UTF-8, or UTF-16 or UTF-32 if a byte order mark says so.

    A mark is taken away. Without one, UTF-16 is recognised by the zero bytes of its ASCII letters
    (some editors and shells of Windows write it so).

    Raises:
        StrzooError: it cannot be read.
        IntegrityError: it is no regular file, larger than `limits.text`, or no text.
    """
    limits = limits or Limits.from_env()
    content = read_file(path, limits, limit="text")
    with reading(path, kind, hint="it must be text in UTF-8 or UTF-16"):
        return content.decode(_encoding(content))


def _encoding(content: bytes) -> str:
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    start = content[:256]
    if len(start) >= 4 and len(content) % 2 == 0:
        if not any(start[1::2]) and all(start[::2]):
            return "utf-16-le"
        if not any(start[::2]) and all(start[1::2]):
            return "utf-16-be"
    return "utf-8"


class BoundedStream(io.RawIOBase):
    """A stream that refuses to give, or to move past, more bytes than the limits allow.

    For decompressors and for parsers that read as many bytes as a header claims.
    """

    def __init__(
        self, stream: io.BufferedIOBase, name: str, limits: Limits, *, total: bool
    ) -> None:
        """`total` bounds all bytes up to the position, not only those read at once."""
        self._stream, self._name, self._limits, self._total = stream, name, limits, total

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._total and whence == os.SEEK_SET:
            self._check(offset)
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self._limits.bytes
        self._check(size + (self._stream.tell() if self._total else 0))
        return self._stream.read(size)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _check(self, size: int) -> None:
        self._limits.check("bytes", size, f"{self._name} (what it claims to hold)")


def resolve_inside(folder: Path, name: str, what: str) -> Path:
    """The regular file `name` in `folder` or below, reached without links and without "..".

    In a snapshot of Hugging Face's cache the file may be a link to a blob of its own model.

    Raises:
        IntegrityError: the name is absolute or leads out, a part of it is another link, or it is
            no regular file; `what` names who asks for it.
        StrzooError: there is no such file.
    """
    parts = Path(name.replace("\\", "/")).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name or ":" in parts[0]:
        raise IntegrityError(f"{what} refers to {name[:100]!r}, outside its own folder: refused")
    path = folder
    for part in parts:
        path = path / part
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode) and _leads_to_blob(path):
                mode = os.stat(path).st_mode
        except FileNotFoundError:
            raise StrzooError(f"{path} does not exist; {what} refers to it") from None
        except OSError as error:
            raise StrzooError(f"cannot read {path}: {error.strerror or error}") from error
        if stat.S_ISLNK(mode):
            raise IntegrityError(f"{what} refers to {path}, a link: only files beside it are read")
    try:
        check_regular(mode, path)
    except IntegrityError as error:
        raise IntegrityError(f"{what} refers to {error}") from error
    return path


def lines_of(text: str) -> list[str]:
    """The lines of a text; characters that only separate lines in print are part of them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _leads_to_blob(link: Path) -> bool:
    """Whether a link in a snapshot leads to a blob of the same model in Hugging Face's cache:
    `snapshots/REVISION/` and `blobs/` lie in one folder."""
    target = Path(os.path.realpath(link))
    return any(
        folder.name == "snapshots" and target.parent == folder.parent / "blobs"
        for folder in Path(os.path.realpath(link.parent)).parents
    )
