"""The layout of Hugging Face's cache: a snapshot's files are links to blobs."""

from __future__ import annotations

from pathlib import Path


def store_as_snapshot(folder: Path, cache: Path) -> Path:
    """Move the files of `folder` into the blobs of a model in `cache`; the snapshot's folder."""
    blobs, snapshot = cache / "models--a--b/blobs", cache / "models--a--b/snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"hash{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash{number}")
    return snapshot
