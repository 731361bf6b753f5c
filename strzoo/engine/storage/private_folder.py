"""The folder of the engine's cache: its files run as code, so only its user may write there."""

from __future__ import annotations

import logging
import os
import stat
from functools import lru_cache
from pathlib import Path

_LOG = logging.getLogger(__name__)


def open_private(folder: Path | None) -> Path | None:
    """`folder`, if nothing in it can come from another user; None if it can, with a warning.

    A folder that does not exist yet is in order: `make_private` makes it.
    """
    if folder is None or os.name != "posix" or (reason := find_intruder(folder)) is None:
        return folder
    _warn(f"the engine's cache {folder} is not used: {reason}")
    return None


def make_private(folder: Path) -> None:
    """Make the folder, for its owner alone, unless it exists.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def find_intruder(folder: Path) -> str | None:
    """Who else could have written in the folder and what to do about it; None if nobody."""
    try:
        found = folder.stat()
    except OSError:
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return (
            f"it belongs to user {found.st_uid}, whose machine code it would run; remove it or "
            "choose another cache folder (--cache-dir, STRZOO_HOME)"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return (
            f"others can write there (mode {stat.S_IMODE(found.st_mode):o}), and what they write "
            f"would run as you; remove it, or `chmod 700 {folder}` if you trust what is in it"
        )
    return None


@lru_cache(maxsize=64)
def _warn(message: str) -> None:
    """Once per process and message: a cache is asked for several times in one compilation."""
    _LOG.warning("%s", message)
