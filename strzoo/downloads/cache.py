"""The cache folder: verified files under their final names, and the hashes they must have.

    <cache>/<id>-<format>.pth     whole and verified, or not there
    <cache>/records/<file>.json   the hash recorded at first use, where the card has none
    <cache>/staging/              partial downloads, see `strzoo.downloads.staging`
    <cache>/rejected/<file>       what was found under a final name but is not the file
    <cache>/locks/<file>.lock     one download per file at a time
    <cache>/logs/*.log            tracebacks of unexpected errors of the command line

Whoever reads a cached file has its hash compared first. Publishing is a rename, recording an
exclusive creation, so both are right without the lock, which only saves duplicate work.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from strzoo.downloads.locks import LocklessError, is_stale, release, try_lock
from strzoo.downloads.staging import Staging
from strzoo.downloads.web import Deadline
from strzoo.errors import IntegrityError, NetworkError, StrzooError
from strzoo.files import sha256_file, write_error
from strzoo.strict_json import build_record, read_json
from strzoo.zoo.registry import ModelCard

logger = logging.getLogger(__name__)

Check: TypeAlias = Callable[[Path, ModelCard, str], None]
"""Raises `IntegrityError` unless the file holds the card's model in that format."""

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class HashRecord:
    """The hash of a file when it was first used; the fields of a record file."""

    sha256: str
    bytes: int
    source: str
    recorded: str  # UTC, ISO 8601
    schema: int = RECORD_SCHEMA

    def __post_init__(self) -> None:
        if self.schema != RECORD_SCHEMA or len(self.sha256) != 64:
            raise IntegrityError("not a record that this strzoo can read")


@dataclass(frozen=True)
class CachedFile:
    """A file whose content was verified a moment ago. `pinned`: the card knew its hash."""

    path: Path
    bytes: int
    sha256: str
    pinned: bool


def check_content(path: Path, card: ModelCard, format: str) -> None:
    """Raise `IntegrityError` unless the file loads safely and is what the card describes."""
    from strzoo.checkpoint import check_published, map_checkpoint

    check_published(map_checkpoint(path), card, format)


class Cache:
    """One cache folder. `check` looks into a file that no known hash vouches for."""

    def __init__(self, folder: Path, check: Check = check_content) -> None:
        self.folder, self._check = folder, check
        self.staging = Staging(folder / "staging")

    def path(self, card: ModelCard, format: str) -> Path:
        """Where the file is, or will be."""
        return self.folder / card.filename(format)

    def find(self, card: ModelCard, format: str, *, reject: bool = False) -> CachedFile | None:
        """The verified file; None if it is missing or damaged.

        With `reject`, a damaged file is moved out of the way, which is best done under `lock`.

        Raises:
            StrzooError: it cannot be read, or is damaged and cannot be moved.
        """
        path = self.path(card, format)
        try:
            before = path.stat()
            return self._verify(path, card, format)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            if reject:
                logger.warning("%s is damaged and is fetched again: %s", path, error)
                self._reject(path, before.st_ino)
            return None
        except OSError as error:
            raise StrzooError(
                f"cannot read {path}: {error.strerror}; mend that, or choose another folder with "
                "--cache-dir or STRZOO_HOME"
            ) from error

    def verify(self, card: ModelCard, format: str) -> CachedFile:
        """Compare hash and content of a cached file, changing nothing.

        Raises:
            FileNotFoundError: it is not in the cache.
            IntegrityError: it is not what it should be.
        """
        path = self.path(card, format)
        found = self._compare(path, card, format)
        self.check(path, card, format)
        return found

    def check(self, path: Path, card: ModelCard, format: str, *, shown: object = None) -> None:
        """Look into a file; errors name it as `shown` if given."""
        try:
            self._check(path, card, format)
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(str(path), str(shown or path.name))) from error

    def publish(
        self, data: Path, card: ModelCard, format: str, sha256: str, source: str
    ) -> CachedFile:
        """Give a checked and synced file its final name, once its hash is the expected one.

        Raises:
            IntegrityError: the hash differs from the card's or the recorded one.
            StrzooError: the cache folder cannot be written.
        """
        path = self.path(card, format)
        try:
            size = data.stat().st_size
            if card.file(format).sha256 is None:
                self._record(card, format, HashRecord(sha256, size, source, _now()))
            self.expect(card, format, sha256)
            os.replace(data, path)
            _sync_folder(self.folder)
        except OSError as error:
            raise write_error(path, error) from error
        return CachedFile(path, size, sha256, card.file(format).sha256 is not None)

    def expect(self, card: ModelCard, format: str, sha256: str) -> bool:
        """Whether a hash is known for the file.

        Raises:
            IntegrityError: one is known and differs from `sha256`.
        """
        filename = card.filename(format)
        pin = card.file(format).sha256
        if pin is not None:
            if pin != sha256:
                raise IntegrityError(f"{filename} has sha256 {sha256}; its card says {pin}")
            return True
        record = self.record(filename)
        if record is not None and record.sha256 != sha256:
            raise IntegrityError(
                f"{filename} has sha256 {sha256}; {record.sha256} was recorded on "
                f"{record.recorded}; if the published file changed for a good reason, run "
                f"`strzoo cache prune --forget {card.id}` and fetch it again"
            )
        return record is not None

    def record(self, filename: str) -> HashRecord | None:
        """The recorded hash of a file; None if there is none that can be read."""
        path = self.record_path(filename)
        if not path.exists():
            return None
        try:
            return build_record(HashRecord, read_json(path), str(path))
        except IntegrityError as error:
            logger.warning("ignoring a damaged record: %s", error)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None

    @contextlib.contextmanager
    def lock(self, filename: str, deadline: Deadline) -> Iterator[None]:
        """Wait until no other process downloads `filename`.

        Where the file system cannot lock, nothing is waited for: the lock saves duplicate
        work and nothing else depends on it.

        Raises:
            NetworkError: the deadline passed while waiting.
            CancelledError: the caller cancelled.
        """
        path = self.lock_path(filename)
        lock = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if (lock := try_lock(path)) is None:
                logger.info("waiting for another process to download %s", filename)
            while lock is None:
                deadline.sleep(0.1)
                lock = try_lock(path)
        except OSError as error:
            raise write_error(path.parent, error) from error
        except LocklessError as error:
            logger.info("cannot lock (%s); going on without", error)
        except NetworkError as error:
            raise NetworkError(f"another process holds {path}: {error}") from error
        try:
            yield
        finally:
            if lock is not None:
                release(lock, remove=True)

    @contextlib.contextmanager
    def tidied(self) -> Iterator[None]:
        """Afterwards remove folders that this work made and left empty."""
        folders = (self.folder, *self.folder.parents)
        made = [folder for folder in folders if not os.path.exists(folder)]
        try:
            yield
        finally:
            for folder in (self.staging.folder, self.folder / "locks", self.folder / "logs", *made):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _verify(self, path: Path, card: ModelCard, format: str) -> CachedFile:
        found = self._compare(path, card, format)
        if not self.expect(card, format, found.sha256):
            # Placed by hand: look into it once, then hold it to its hash.
            self.check(path, card, format)
            try:
                self._record(
                    card, format, HashRecord(found.sha256, found.bytes, "found in cache", _now())
                )
            except OSError as error:
                logger.warning("cannot record the hash of %s: %s", path, error)
        return found

    def _compare(self, path: Path, card: ModelCard, format: str) -> CachedFile:
        sha256 = sha256_file(path)
        self.expect(card, format, sha256)
        pinned = card.file(format).sha256 is not None
        return CachedFile(path, path.stat().st_size, sha256, pinned)

    def _record(self, card: ModelCard, format: str, record: HashRecord) -> None:
        """Record a hash unless one is recorded. Of several processes the first one wins."""
        path = self.record_path(card.filename(format))
        if self.record(card.filename(format)) is not None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(record), indent=1) + "\n"
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            # A file system without hard links.
            with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as stream:
                stream.write(text)
        finally:
            temporary.unlink(missing_ok=True)

    def _reject(self, path: Path, inode: int) -> None:
        """Move the damaged file away, but not a good one that just took its place."""
        rejected = self.folder / "rejected" / path.name
        try:
            rejected.parent.mkdir(exist_ok=True)
            os.replace(path, rejected)
            if rejected.stat().st_ino != inode:
                os.replace(rejected, path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise write_error(path, error) from error

    def lock_path(self, filename: str) -> Path:
        """What a process locks while it downloads a file."""
        return self.folder / "locks" / f"{filename}.lock"

    def stale_locks(self) -> list[Path]:
        """Lock files that killed processes left."""
        return sorted(path for path in self.lock_path("").parent.glob("*.lock") if is_stale(path))

    def record_path(self, filename: str) -> Path:
        """Where the hash of a file is recorded."""
        return self.folder / "records" / f"{filename}.json"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _sync_folder(folder: Path) -> None:
    """Have the disk hold the folder's new name too; not every system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
