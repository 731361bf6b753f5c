"""File locks that the system releases when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

_TRIES = 20  # at a folder that other processes remove as soon as it is empty


class LocklessError(Exception):
    """The file system cannot lock, or its locks keep nobody out."""


def try_lock(path: Path) -> BaseFileLock | None:
    """The lock on the file `path`, which is made if missing; None if another one holds it.

    Raises:
        LocklessError: the file cannot be locked. Some file systems accept every lock; a second
            lock on the file, which must be refused, tells.
    """
    from filelock import FileLock

    lock = FileLock(path)
    if not _acquire(lock):
        return None
    if not path.exists():  # its last holder removed it before letting go
        release(lock)
        return None
    probe = FileLock(path)
    if not _acquire(probe):
        return lock
    release(probe)
    release(lock)
    raise LocklessError(f"{path}: two locks at once")


def release(lock: BaseFileLock, *, remove: bool = False) -> None:
    """Release the lock; with `remove` its file goes too, while it is held where that is possible:
    whoever waits then locks a new file instead of one without a name."""
    path = Path(lock.lock_file)
    with contextlib.suppress(OSError):
        if remove and os.name == "posix":
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        lock.release()
    with contextlib.suppress(OSError):
        if remove and os.name != "posix":
            path.unlink(missing_ok=True)


def is_stale(path: Path) -> bool:
    """Whether a lock file is left of a process that was killed."""
    try:
        lock = try_lock(path)
    except LocklessError:
        return False
    if lock is not None:
        release(lock)
    return lock is not None


def drop_lock(path: Path) -> None:
    """Remove a lock file unless a process holds it."""
    with contextlib.suppress(LocklessError):
        if (lock := try_lock(path)) is not None:
            release(lock, remove=True)


def _acquire(lock: BaseFileLock) -> bool:
    from filelock import Timeout

    for left in reversed(range(_TRIES)):
        try:
            lock.acquire(timeout=0)
            return True
        except Timeout:
            return False
        except FileNotFoundError as error:
            if not left:
                raise LocklessError(str(error)) from error
        except (OSError, NotImplementedError) as error:
            raise LocklessError(str(error)) from error
    raise AssertionError("the loop returns or raises")
