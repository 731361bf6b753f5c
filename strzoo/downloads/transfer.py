"""Bring the bytes of one source into a partial file, hashing them on the way.

Resumes only what is provably the same file, retries what may pass, and stops at the deadline.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias

from strzoo.downloads.failures import TransientError
from strzoo.downloads.headers import (
    parse_content_range,
    parse_count,
    parse_validator,
)
from strzoo.downloads.sources import DriveSource, LocalSource, SourceError, WebSource
from strzoo.downloads.staging import Partial, check_space
from strzoo.downloads.web import Answer, Deadline, Web
from strzoo.errors import IntegrityError, NetworkError, one_line
from strzoo.files import write_error

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes present and the bytes expected (None when nobody knows)."""

_COPY_BLOCK = 1 << 20
_MAGIC = (
    b"PK\x03\x04",  # torch.save since 1.6
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",  # torch.save before: its pickled magic number
)
_MAGIC_LENGTH = 16


def check_magic(head: bytes) -> None:
    """Raise `IntegrityError` unless a file that begins with `head` can be a checkpoint."""
    if any(head.startswith(magic) for magic in _MAGIC):
        return
    if not head:
        raise IntegrityError("it is empty")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise IntegrityError("it is an HTML page, not a checkpoint")
    raise IntegrityError(f"it is no PyTorch checkpoint: it begins with {head[:8]!r}")


def copy_file(
    source: LocalSource, partial: Partial, deadline: Deadline, progress: Progress | None
) -> str:
    """Copy a local file into `partial`; its hex SHA-256.

    Raises:
        SourceError: it cannot be read.
        StrzooError: the copy cannot be written.
    """
    path = source.file
    total = path.stat().st_size
    check_space(partial.folder, total, partial.filename)
    partial.discard()  # copying again is cheaper than proving that the file is the same
    hasher = hashlib.sha256()
    with _open_source(path) as stream, _open_data(partial) as data:
        done = 0
        while block := _read(stream, path):
            deadline.check()
            hasher.update(block)
            _write(data, block, partial.data)
            done += len(block)
            if progress:
                progress(done, total)
    return hasher.hexdigest()


def fetch(
    source: WebSource | DriveSource,
    partial: Partial,
    web: Web,
    *,
    expected: int | None = None,
    pinned: bool = False,
    progress: Progress | None = None,
) -> str:
    """Bring the file of `source` into `partial`; its hex SHA-256.

    `expected` is the file's size in bytes where known. `pinned` says that the caller compares
    the hash with a known one, so a resume needs no proof that the file did not change.

    Raises:
        NetworkError: the server does not send the file, after all retries.
        IntegrityError: what it sends cannot be the file.
        StrzooError: the disk is full or not writable; the partial is kept.
        CancelledError: the caller cancelled; the partial is kept.
    """
    return _Fetch(source, partial, web, expected, pinned, progress).run()


class _Fetch:
    """The state of one transfer across its retries."""

    def __init__(
        self,
        source: WebSource | DriveSource,
        partial: Partial,
        web: Web,
        expected: int | None,
        pinned: bool,
        progress: Progress | None,
    ) -> None:
        self.source, self.partial, self.web = source, partial, web
        self.expected, self.pinned, self.progress = expected, pinned, progress
        self.hasher = hashlib.sha256()
        self.offset = 0

    def run(self) -> str:
        try:
            return self._run()
        finally:
            if not self._resumable():  # the bytes prove nothing to the next process
                self.partial.discard()

    def _run(self) -> str:
        self._continue_partial()
        network, failures, furthest = self.web.network, 0, self.offset
        while True:
            try:
                self._attempt()
                return self.hasher.hexdigest()
            except TransientError as error:
                # A connection that breaks again and again but gets further is not given up.
                failures = 1 if self.offset > furthest else failures + 1
                furthest = max(furthest, self.offset)
                if failures >= network.attempts:
                    raise NetworkError(f"{error} ({failures} attempts)") from error
                pause = min(network.backoff * 2 ** (failures - 1), network.max_backoff)
                pause = max(pause * random.uniform(0.5, 1.0), error.wait or 0.0)
                if pause > min(network.max_wait, self.web.deadline.remaining):
                    raise NetworkError(f"{error}; trying again means {pause:.0f} s") from error
                logger.info("%s: %s; trying again in %.1f s", self.source.label, error, pause)
                self.web.deadline.sleep(pause)

    def _continue_partial(self) -> None:
        """Hash the bytes that an earlier run left, or drop them where they prove nothing."""
        partial = self.partial
        if not self._resumable() or (self.expected or partial.size) < partial.size:
            self._restart()
        if partial.size:
            with open(partial.data, "rb") as stream:
                while block := stream.read(_COPY_BLOCK):
                    self.web.deadline.check()
                    self.hasher.update(block)
                    self.offset += len(block)
            logger.info("resuming at byte %d", self.offset)

    def _resumable(self) -> bool:
        return self.pinned or self.partial.validator is not None

    def _restart(self) -> None:
        self.partial.reset()
        self.hasher, self.offset = hashlib.sha256(), 0

    def _attempt(self) -> None:
        if self.offset and not self._resumable():
            self._restart()
        headers = {}
        if self.offset:
            headers["Range"] = f"bytes={self.offset}-"
            if self.partial.validator:
                headers["If-Range"] = self.partial.validator
        with self.source.open(self.web, headers) as answer:
            total = self._agree(answer)
            self._receive(answer, total)

    def _agree(self, answer: Answer) -> int | None:
        """Decide what the answer's bytes are; the file's size in bytes if known."""
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise NetworkError("the server compresses the file although asked not to")
        validator = _validator(answer)
        if answer.status == 200:
            if self.offset:
                logger.info("%s starts again: no resume, or a changed file", self.source.label)
                self._restart()
            total = _length(answer)
        else:
            total = self._agree_on_part(answer, validator)
            validator = self.partial.validator
        if total is not None and self.expected is not None and total != self.expected:
            raise IntegrityError(f"the file has {total:,} bytes; {self.expected:,} are expected")
        total = total if total is not None else self.expected
        most = self.expected or self.web.network.max_bytes
        if total is not None and total > most:
            raise IntegrityError(f"the file has {total:,} bytes; at most {most:,} are taken")
        if total is not None:
            check_space(self.partial.folder, total - self.offset, self.partial.filename)
        self.partial.save(validator, total)
        return total

    def _agree_on_part(self, answer: Answer, validator: str | None) -> int:
        """The size of the whole file, once the part is proven to continue our bytes."""
        part = parse_content_range(answer.headers.get("Content-Range", ""))
        mine, total = self.partial.validator, self.partial.total
        continues = (
            self.offset > 0
            and answer.status == 206
            and part is not None
            and part[0] == self.offset
            and part[1] == part[2] - 1
            and total in (None, part[2])
            and (mine is None or validator == mine or (validator is None and not _is_tag(mine)))
        )
        if not continues or part is None:
            self._restart()
            raise TransientError("did not continue where the download stopped")
        return part[2]

    def _receive(self, answer: Answer, total: int | None) -> None:
        limit = total if total is not None else self.web.network.max_bytes
        if self.progress:
            self.progress(self.offset, total)
        with _open_data(self.partial) as data:
            self._drain(answer, total, limit, data)
        if self.partial.size != self.offset:  # over a network the lock may hold on one machine only
            self._restart()
            raise TransientError("another program writes to the same partial file")
        if total is not None and self.offset < total:
            raise TransientError(f"sent {self.offset:,} of {total:,} bytes")
        if not self.offset:
            raise TransientError("sent an empty file")

    def _drain(self, answer: Answer, total: int | None, limit: int, data: BinaryIO) -> None:
        while block := answer.read():
            if self.offset == 0 and len(block) >= _MAGIC_LENGTH:
                check_magic(block)  # early; the whole file is checked again at the end
            if self.offset + len(block) > limit:
                raise IntegrityError(f"the server sends more than {limit:,} bytes")
            _write(data, block, self.partial.data)
            self.hasher.update(block)
            self.offset += len(block)
            if self.progress:
                self.progress(self.offset, total)


def _open_data(partial: Partial) -> BinaryIO:
    try:
        return open(partial.data, "ab", buffering=0)
    except OSError as error:
        raise write_error(partial.data, error) from error


def _open_source(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


def _read(stream: BinaryIO, path: Path) -> bytes:
    try:
        return stream.read(_COPY_BLOCK)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


def _write(stream: BinaryIO, block: bytes, path: Path) -> None:
    """Write all of `block`: an unbuffered file may take only a part."""
    view = memoryview(block)
    try:
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        raise write_error(path, error) from error


def _validator(answer: Answer) -> str | None:
    """What identifies this version of the file: a strong ETag, else Last-Modified."""
    tag = answer.headers.get("ETag", "").strip()
    if tag and not tag.startswith("W/"):
        return parse_validator(tag)
    return parse_validator(answer.headers.get("Last-Modified", "").strip())


def _is_tag(validator: str) -> bool:
    return validator.startswith('"')


def _length(answer: Answer) -> int | None:
    """The length of the body in bytes; None where the server does not say.

    Raises:
        NetworkError: what it says is no number.
    """
    if answer.headers.get("Transfer-Encoding"):
        return None
    value = answer.headers.get("Content-Length", "").strip()
    length = parse_count(value)
    if value and length is None:
        raise NetworkError(f"answers with a Content-Length of {one_line(value, 40)!r}")
    return length


def sync_file(path: Path) -> None:
    """Have the disk hold the file before its name does."""
    try:
        with open(path, "r+b") as stream:  # some systems sync only what may be written
            os.fsync(stream.fileno())
    except OSError as error:
        raise write_error(path, error) from error
