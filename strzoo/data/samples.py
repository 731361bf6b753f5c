"""One typed list of samples, whatever layout the images lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from strzoo.errors import IntegrityError

NO_LABEL = -1  # fills the rows of `Samples.labels` up to equal length


class Source(Protocol):
    """Where encoded images (bytes) or pixels (uint8 [H, W, 3]) come from, by sample number.

    Travels to worker processes: files are opened where they are read.
    """

    def read(self, index: int) -> bytes | np.ndarray: ...


@dataclass(frozen=True)
class Samples:
    """Images and labels, in a fixed order.

    `layout` says in words how they were found. `names` has one entry per image. `labels` is
    int64 [N, L]: the network outputs that count as right, filled up with -1 (L is 1 but for ReaL
    labels). `subset` holds the classes of a data set that has only some of the network's, sorted;
    None when it has all, or nobody can tell. `imagenet` says that outputs are ImageNet's.
    `small` marks images that are not to be resized by default (CIFAR).
    """

    layout: str
    location: str
    source: Source
    names: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    subset: tuple[int, ...] | None = None
    imagenet: bool = False
    small: bool = False
    real: bool = False
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """SHA-256 of names and labels: two runs on the same data have the same."""
        digest = hashlib.sha256(self.labels.tobytes())
        for name in self.names:
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()


def single_labels(labels: Iterable[int]) -> np.ndarray:
    """Labels as int64 [N, 1].

    Raises:
        IntegrityError: one is no number of 64 bits.
    """
    listed = list(labels)
    try:
        return np.asarray(listed, dtype=np.int64).reshape(-1, 1)
    except OverflowError as error:
        raise IntegrityError(
            f"the label {max(listed, key=abs)} is no number of a class, from 0 on"
        ) from error


def label_sets(sets: Sequence[Sequence[int]]) -> np.ndarray:
    """Sets of labels as int64 [N, L], each row filled up with -1."""
    longest = max((len(s) for s in sets), default=1)
    rows = np.full((len(sets), max(longest, 1)), NO_LABEL, dtype=np.int64)
    for row, accepted in zip(rows, sets, strict=True):
        row[: len(accepted)] = accepted
    return rows
