"""The staging folder: partial files that belong to one process at a time.

A partial is a folder `<file>~<owner>~<random>` holding `data` and `meta.json`. Taking over a
partial is one atomic rename, so it is safe where file locks do nothing; only a partial that was
put down (`idle`) or whose owner is certainly dead is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strzoo.errors import StrzooError
from strzoo.files import write_error

logger = logging.getLogger(__name__)

MAX_AGE = 7 * 24 * 3600.0  # seconds after which a partial that nobody continued is removed
_IDLE = "idle"


@dataclass
class Partial:
    """A partial file owned by this process. `source` names where its bytes come from."""

    folder: Path
    source: str
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

        Afterwards it is removed when its data was moved away, discarded or empty, and put
        down for the next process otherwise.

        Raises:
            StrzooError: the staging folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self._take(filename, source) or self._create(filename, source)
        except OSError as error:
            raise write_error(self.folder, error) from error
        try:
            yield partial
        finally:
            self._put_down(partial, filename)

    def entries(self, filename: str | None = None) -> list[Path]:
        """All partials, or those of one file, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            entry
            for entry in self.folder.iterdir()
            if filename is None or entry.name.split("~")[0] == filename
        ]
        return sorted(found, key=_modified)

    def abandoned(self) -> list[Path]:
        """The partials that no living process of this machine owns."""
        return [entry for entry in self.entries() if not _is_owned(entry)]

    def clean(self, max_age: float = MAX_AGE) -> list[Path]:
        """Remove partials older than `max_age` seconds that no living process owns."""
        removed = []
        for entry in self.abandoned():
            if time.time() - _modified(entry) >= max_age:
                remove(entry)
                removed.append(entry)
                logger.info("removed the stale partial %s", entry.name)
        return removed

    def _create(self, filename: str, source: str) -> Partial:
        folder = self.folder / _entry_name(filename, _owner())
        folder.mkdir()
        return Partial(folder, source)

    def _take(self, filename: str, source: str) -> Partial | None:
        for entry in reversed(self.entries(filename)):
            if _is_owned(entry) or _is_foreign(entry):
                continue
            meta = _read_meta(entry)
            if meta.get("source") != source:
                continue
            mine = self.folder / _entry_name(filename, _owner())
            try:
                os.rename(entry, mine)
            except OSError:  # another process was faster
                continue
            validator, total = meta.get("validator"), meta.get("total")
            return Partial(
                mine,
                source,
                validator if isinstance(validator, str) else None,
                total if isinstance(total, int) else None,
            )
        return None

    def _put_down(self, partial: Partial, filename: str) -> None:
        if partial.discarded or not partial.size or not (partial.folder / "meta.json").exists():
            remove(partial.folder)
            return
        # Bytes that a power failure could still take back would spoil the resume.
        with contextlib.suppress(OSError), open(partial.data, "rb") as stream:
            os.fsync(stream.fileno())
        with contextlib.suppress(OSError):
            os.rename(partial.folder, self.folder / _entry_name(filename, _IDLE))


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


def _entry_name(filename: str, owner: str) -> str:
    return f"{filename}~{owner}~{secrets.token_hex(6)}"


def _place() -> str:
    """What process ids are relative to: this boot of this machine, this pid namespace."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:12]


def _owner() -> str:
    return f"{os.getpid()}-{_place()}"


def _owner_of(entry: Path) -> tuple[int, str] | None:
    """The process id and place of the owner; None for one that was put down."""
    parts = entry.name.split("~")
    if len(parts) != 3 or parts[1] == _IDLE:
        return None
    pid, _, place = parts[1].partition("-")
    return (int(pid), place) if pid.isdigit() else None


def _is_owned(entry: Path) -> bool:
    """Whether a process of this machine that may be alive owns the partial."""
    owner = _owner_of(entry)
    if owner is None or owner[1] != _place():
        return False
    if os.name != "posix":  # no harmless way to ask: suppose that it lives
        return True
    try:
        os.kill(owner[0], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_foreign(entry: Path) -> bool:
    """Whether another machine, container or boot owns the partial: nobody can ask there."""
    owner = _owner_of(entry)
    return owner is not None and owner[1] != _place()


def _read_meta(entry: Path) -> dict[str, Any]:
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _modified(entry: Path) -> float:
    """When the partial last changed; 0 for one that is gone."""
    times = [0.0]
    for path in (entry, entry / "data"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)
