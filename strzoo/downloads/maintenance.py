"""Look after the cache: what is in it, whether it is sound, what can go."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from strzoo.downloads.cache import Cache, CachedFile
from strzoo.downloads.locks import drop_lock
from strzoo.downloads.staging import remove
from strzoo.errors import IntegrityError
from strzoo.files import refused_error
from strzoo.zoo.registry import ModelCard, Registry


@dataclass(frozen=True)
class CacheEntry:
    """A file under its final name. `sha256` is what it must have, None before its first use."""

    card: ModelCard
    format: str
    path: Path
    bytes: int
    sha256: str | None
    pinned: bool


@dataclass(frozen=True)
class Verdict:
    """The outcome of verifying one cached file; `problem` is None if it is sound."""

    entry: CacheEntry
    file: CachedFile | None
    problem: str | None


@dataclass(frozen=True)
class Removed:
    """A file or folder that was removed, or would be."""

    path: Path
    bytes: int


def list_cached(cache: Cache, registry: Registry) -> list[CacheEntry]:
    """The cached files of the registry's models, in its order, without reading them."""
    entries = []
    for card in registry:
        for format, file in card.files.items():
            path = cache.path(card, format)
            if not path.is_file():
                continue
            record = cache.record(path.name)
            sha256 = file.sha256 or (record.sha256 if record else None)
            pinned = file.sha256 is not None
            entries.append(CacheEntry(card, format, path, path.stat().st_size, sha256, pinned))
    return entries


def verify_cached(
    cache: Cache, registry: Registry, ids: Collection[str] | None = None
) -> Iterator[Verdict]:
    """Compare hash and content of each cached file (of the models `ids` only), one by one."""
    for entry in list_cached(cache, registry):
        if ids is not None and entry.card.id not in ids:
            continue
        try:
            yield Verdict(entry, cache.verify(entry.card, entry.format), None)
        except (IntegrityError, OSError) as error:
            yield Verdict(entry, None, str(error))


def list_compiled(folder: Path) -> list[Path]:
    """The files that the sparse engine keeps in the cache folder `folder`."""
    return sorted(path for path in (folder / "engine").glob("*") if path.is_file())


def prune(
    cache: Cache,
    cards: Collection[ModelCard] = (),
    *,
    forget: bool = False,
    compiled: bool = False,
    dry_run: bool = False,
) -> list[Removed]:
    """Remove partials and locks that no process owns, rejected files, logs of errors, and the
    files of `cards`.

    `forget` drops their recorded hashes too, so that a changed published file is accepted;
    `compiled` removes what the sparse engine keeps.

    Raises:
        StrzooError: something cannot be removed.
    """
    doomed = cache.staging.abandoned()
    rejected = cache.folder / "rejected"
    doomed += sorted(rejected.iterdir()) if rejected.is_dir() else []
    doomed += cache.stale_locks()
    doomed += sorted((cache.folder / "logs").glob("*.log"))
    for card in cards:
        for format in card.files:
            path = cache.path(card, format)
            doomed += [path] if path.exists() else []
            record = cache.record_path(path.name)
            doomed += [record] if forget and record.exists() else []
    doomed += list_compiled(cache.folder) if compiled else []
    removed = [Removed(path, _size(path)) for path in doomed]
    if dry_run:
        return removed
    with cache.tidied():
        for path in doomed:
            if path.parent == cache.staging.folder:
                cache.staging.drop(path)  # unless a process has begun to continue it
                continue
            if path.parent == cache.lock_path("").parent:
                drop_lock(path)
                continue
            remove(path)
            if path.exists():
                raise refused_error(path)
    return removed


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    files = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.stat().st_size for file in files)
