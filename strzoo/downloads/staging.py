"""The staging folder: partial files, each of which belongs to whoever holds the lock in its folder.

A partial is a folder `<file>~<random>` that holds `data`, `meta.json` and `lock`. The system
releases the lock of a process that ends, so a partial that can be locked can be continued. Where
the file system cannot lock, each download has a partial of its own that ends with it, and whose
name ends in `~unlocked`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strzoo.downloads.headers import parse_validator
from strzoo.downloads.locks import LocklessError, release, try_lock
from strzoo.errors import StrzooError
from strzoo.files import write_error

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

MAX_AGE = 7 * 24 * 3600.0  # seconds after which a partial that nobody continued is removed
_UNLOCKED = "~unlocked"
_TRIES = 20  # to make a folder in one that other processes remove as soon as it is empty


@dataclass
class Partial:
    """A partial file owned by this process. `source` names where its bytes come from."""

    folder: Path
    filename: str
    source: str
    lock: BaseFileLock | None  # None where the file system cannot lock
    validator: str | None = None  # the ETag or Last-Modified that the bytes belong to
    total: int | None = None
    discarded: bool = False

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0

    def save(self, validator: str | None, total: int | None) -> None:
        """Note what the bytes belong to, so that another process can continue."""
        self.validator, self.total = validator, total
        if self.lock is None:
            return  # without a lock nobody may continue: the owner could still be alive
        meta = {"source": self.source, "validator": validator, "total": total}
        temporary = self.folder / "meta.tmp"
        try:
            temporary.write_text(json.dumps(meta), encoding="utf-8")
            os.replace(temporary, self.folder / "meta.json")
        except OSError as error:
            raise write_error(self.folder, error) from error

    def reset(self) -> None:
        """Forget the bytes: the next ones start the file."""
        self.data.unlink(missing_ok=True)
        self.validator = self.total = None

    def discard(self) -> None:
        """The bytes are wrong: do not keep them for a resume."""
        self.discarded = True


class Staging:
    """The partials under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def hold(self, filename: str, source: str) -> Iterator[Partial]:
        """A partial of `filename` from `source`: one to continue, or an empty one.

        Afterwards it is removed when its data was moved away, discarded or empty, or when there
        is no lock, and kept for the next process otherwise.

        Raises:
            StrzooError: the staging folder cannot be written.
        """
        try:
            partial = self._take(filename, source) or self._create(filename, source)
        except OSError as error:
            raise write_error(self.folder, error) from error
        try:
            yield partial
        finally:
            _put_down(partial)

    def entries(self, filename: str | None = None) -> list[Path]:
        """All partials, or those of one file, oldest first."""
        try:
            found = list(self.folder.iterdir())
        except OSError:
            return []
        if filename is not None:
            found = [entry for entry in found if entry.name.split("~")[0] == filename]
        return sorted(found, key=_modified)

    def abandoned(self) -> list[Path]:
        """The partials that no process owns.

        Where the file system cannot lock, those that did not change for `MAX_AGE` seconds.
        """
        return [entry for entry in self.entries() if _claim(entry)]

    def clean(self, max_age: float = MAX_AGE) -> list[Path]:
        """Remove what no process owns: partials older than `max_age` seconds, and those of killed
        processes that nobody can continue."""
        then = time.time() - max_age
        found = self.entries()
        useless = [entry for entry in found if _modified(entry) <= then or not _read_meta(entry)]
        return [entry for entry in useless if _claim(entry, remove=True)]

    def drop(self, entry: Path) -> bool:
        """Remove a partial unless a process owns it; whether it is gone."""
        return _claim(entry, remove=True)

    def drop_kept(self, filename: str) -> None:
        """Remove what other sources left of a file that is complete now."""
        for entry in self.entries(filename):
            _claim(entry, remove=True)

    def _create(self, filename: str, source: str) -> Partial:
        for left in reversed(range(_TRIES)):
            folder = self.folder / f"{filename}~{secrets.token_hex(6)}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
                lock = try_lock(folder / "lock")
            except FileNotFoundError:
                if not left:
                    raise
                continue
            except LocklessError as error:
                logger.info("cannot lock in %s (%s): no resume", self.folder, error)
                try:
                    unlocked = folder.rename(folder.with_name(folder.name + _UNLOCKED))
                except FileNotFoundError:  # taken for a shell before it had its name
                    if not left:
                        raise
                    continue
                return Partial(unlocked, filename, source, None)
            if lock is not None:
                return Partial(folder, filename, source, lock)
        raise AssertionError("the loop returns or raises")

    def _take(self, filename: str, source: str) -> Partial | None:
        for entry in reversed(self.entries(filename)):
            if _read_meta(entry).get("source") != source:
                continue
            try:
                lock = try_lock(entry / "lock")
            except LocklessError:
                return None
            if lock is None:
                continue
            meta = _read_meta(entry)  # again: its last owner may have removed it meanwhile
            if meta.get("source") == source:
                total = meta.get("total")
                return Partial(
                    entry,
                    filename,
                    source,
                    lock,
                    parse_validator(meta.get("validator")),
                    total if type(total) is int else None,
                )
            _remove(entry, lock)  # its last owner removed it, and locking made the folder anew
        return None


def _put_down(partial: Partial) -> None:
    meta = partial.folder / "meta.json"
    if partial.lock is None or partial.discarded or not partial.size or not meta.exists():
        _remove(partial.folder, partial.lock)
        return
    # Bytes that a power failure could still take back would spoil the resume.
    with contextlib.suppress(OSError), open(partial.data, "r+b") as stream:
        os.fsync(stream.fileno())
    release(partial.lock)


def _claim(entry: Path, *, remove: bool = False) -> bool:
    """Whether nobody owns the partial; with `remove` it is removed then."""
    lock = None
    if entry.name.endswith(_UNLOCKED):
        if time.time() - _modified(entry) < MAX_AGE:
            return False
    elif entry.is_dir():
        try:
            lock = try_lock(entry / "lock")
        except LocklessError:  # of a time when the file system could lock
            if _drop_shell(entry, lock_file=True):
                return True
            if time.time() - _modified(entry) < MAX_AGE:
                return False
        else:
            if lock is None:
                return _drop_shell(entry, lock_file=False)
    if remove:
        _remove(entry, lock)
        logger.info("removed the partial %s", entry.name)
    elif lock is not None:
        release(lock)
    return not remove or not os.path.lexists(entry)


def _drop_shell(entry: Path, *, lock_file: bool) -> bool:
    """Remove a folder without content. Locking makes it anew if its owner has just renamed or
    removed it. Its maker, if it is alive, makes another."""
    with contextlib.suppress(OSError):
        if lock_file and {path.name for path in entry.iterdir()} == {"lock"}:
            (entry / "lock").unlink(missing_ok=True)
        entry.rmdir()
        return True
    return False


def _remove(folder: Path, lock: BaseFileLock | None) -> None:
    """Remove a partial while it is locked, where the system removes files that are open."""
    # meta.json goes first: without it nobody continues the partial.
    with contextlib.suppress(OSError):
        (folder / "meta.json").unlink(missing_ok=True)
    remove(folder)
    if lock is not None:
        release(lock)
        remove(folder)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise `StrzooError` unless the disk of `folder` has room for `needed` bytes more."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StrzooError(
            f"{what} needs {needed:,} bytes and {folder} has {free:,} free; free some space or "
            "choose another folder with --cache-dir or STRZOO_HOME"
        )


def remove(path: Path) -> None:
    """Remove a file or a folder; one that is already gone is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _read_meta(entry: Path) -> dict[str, Any]:
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _modified(entry: Path) -> float:
    """When the partial last changed; 0 for one that is gone."""
    times = [0.0]
    for path in (entry, entry / "data"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)
