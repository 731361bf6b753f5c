"""The answers of a run, image by image: counts follow from them, and an interrupted run resumes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0
from torch import Tensor

from strzoo.borders import open_file, reading
from strzoo.data.samples import NO_LABEL
from strzoo.errors import IntegrityError, StrzooError
from strzoo.evaluation.outputs import OutputReader
from strzoo.evaluation.results import UNREAD
from strzoo.files import atomic_path
from strzoo.settings import Limits

TOP = 5


@dataclass
class Metric:
    """Per image: the five best classes (`ranked`, and `subset` among a data set's own classes),
    the loss (NaN if unread), whether it is `done`; and the reasons of those unread."""

    ranked: np.ndarray
    subset: np.ndarray | None
    losses: np.ndarray
    done: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, images: int, *, subset: bool) -> Metric:
        return cls(
            np.full((images, TOP), UNREAD, dtype=np.int32),
            np.full((images, TOP), UNREAD, dtype=np.int32) if subset else None,
            np.full(images, np.nan, dtype=np.float32),
            np.zeros(images, dtype=bool),
        )

    def add(self, indices: np.ndarray, answers: Answers) -> None:
        """Enter the answers for images `indices`.

        Raises:
            StrzooError: an image comes twice.
        """
        if self.done[indices].any() or len(np.unique(indices)) != len(indices):
            raise StrzooError("an image was evaluated twice; please report this")
        width = answers.ranked.shape[1]
        self.ranked[indices, :width] = answers.ranked
        if self.subset is not None and answers.subset is not None:
            self.subset[indices, : answers.subset.shape[1]] = answers.subset
        self.losses[indices] = answers.losses
        self.done[indices] = True

    def forget(self, index: int, reason: str) -> None:
        """Enter an image that could not be read: its answer is wrong whatever its label."""
        self.ranked[index] = UNREAD
        if self.subset is not None:
            self.subset[index] = UNREAD
        self.losses[index] = np.nan
        self.done[index] = True
        self.broken[index] = reason

    def merge(self, other: Metric) -> None:
        """Take over what another process or an earlier run has done.

        Raises:
            StrzooError: an image was done by both.
        """
        if (self.done & other.done).any():
            raise StrzooError("an image was evaluated by two processes; please report this")
        where = other.done
        self.ranked[where], self.losses[where] = other.ranked[where], other.losses[where]
        if self.subset is not None and other.subset is not None:
            self.subset[where] = other.subset[where]
        self.done |= where
        self.broken |= other.broken

    def arrays(self) -> dict[str, np.ndarray | None]:
        """The arrays by name, in the order of the fields."""
        return {
            "ranked": self.ranked,
            "subset": self.subset,
            "losses": self.losses,
            "done": self.done,
        }

    @property
    def remaining(self) -> list[int]:
        """The images still to do, in order."""
        return np.flatnonzero(~self.done).tolist()

    @property
    def loss(self) -> float:
        """Mean over the readable images; summed exactly, so in any order."""
        values = self.losses[~np.isnan(self.losses)]
        return math.fsum(values.tolist()) / len(values) if len(values) else math.nan


@dataclass(frozen=True)
class Answers:
    """Classes best first [B, up to 5], the same among the subset's classes, losses [B]."""

    ranked: np.ndarray
    subset: np.ndarray | None
    losses: np.ndarray


def rank(
    logits: Tensor, labels: Tensor, subset: Tensor | None, reader: OutputReader | None = None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Best classes, best classes of the subset, losses; on the device of the logits.

    Equal logits rank by class number, on every device. The loss of several right labels is that
    of their joint probability.

    Args:
        logits: [B, C], or logarithms of probabilities if `reader` says so.
        labels: int64 [B, L], filled up with -1.
        subset: int64 [S], sorted class numbers; None for all.
        reader: of the network that gave them; by default they are logits.
    """
    logits = logits.float()
    ranked = _best(logits)
    own = None if subset is None else subset[_best(logits[:, subset])]
    given = logits.gather(1, labels.clamp(min=0)).masked_fill(labels == NO_LABEL, -torch.inf)
    losses = -torch.logsumexp(given, 1)
    if reader is None or not reader.gives_probabilities:
        losses = losses + torch.logsumexp(logits, 1)
    return ranked, own, losses


def _best(logits: Tensor) -> Tensor:
    # topk breaks ties as it likes; a stable sort does not.
    return torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :TOP]


def _read_array(archive: zipfile.ZipFile, name: str, like: np.ndarray | None = None) -> np.ndarray:
    """An array of an .npz file: of type and shape of `like`, else a text."""
    limits = Limits.from_env()
    info = archive.getinfo(f"{name}.npy")
    limits.check("bytes", info.file_size, f"{name} in {archive.filename or 'a file of progress'}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}[version]
        shape, fortran, dtype = read(member)
        wanted = (like.shape, like.dtype) if like is not None else ((), dtype)
        if (shape, dtype) != wanted or fortran or (like is None and dtype.kind != "U"):
            raise ValueError(f"{name} is an array {str(shape)[:60]} of {str(dtype)[:60]}")
        size = math.prod(shape) * dtype.itemsize
        content = member.read(size)
    return np.frombuffer(content, dtype, count=math.prod(shape)).reshape(shape).copy()


class Progress:
    """Keeps a metric on disk while the run lasts, one file for each process.

    A file belongs to a run: to the same weights, images, preprocessing and precision; one of
    another run is refused, not mixed in.
    """

    def __init__(self, path: Path, identity: Sequence[str], rank: int) -> None:
        self._identity = json.dumps(list(identity))
        self._base = path
        self.mine = path.with_name(f"{path.name}.{rank}")

    def files(self) -> list[Path]:
        """The files of all processes of earlier attempts."""
        pattern = self._base.name + ".*"
        return sorted(
            p for p in self._base.parent.glob(pattern) if p.name.rsplit(".", 1)[-1].isdigit()
        )

    def load(self, metric: Metric) -> int:
        """Enter what the files hold into `metric`; returns how many images that is.

        Raises:
            IntegrityError: a file is damaged, or belongs to another run.
        """
        for path in self.files():
            other = self._read(path, metric)
            # After a resume every process keeps the earlier images as well.
            other.done &= ~metric.done
            other.broken = {i: r for i, r in other.broken.items() if other.done[i]}
            metric.merge(other)
        return int(metric.done.sum())

    def _read(self, path: Path, like: Metric) -> Metric:
        """What a file holds, whose arrays have the shapes of those in `like`."""
        hint = "delete it to start again"
        with (
            reading(path, "the progress of an evaluation", hint=hint),
            open_file(path) as stream,
            zipfile.ZipFile(stream) as archive,
        ):
            if str(_read_array(archive, "identity")) != self._identity:
                raise IntegrityError(
                    f"{path} was kept by a run with other weights, images, preprocessing or "
                    "precision; delete it, or name another file for --resume"
                )
            arrays: dict[str, Any] = {
                name: None if array is None else _read_array(archive, name, array)
                for name, array in like.arrays().items()
            }
            broken = json.loads(str(_read_array(archive, "broken")))
            found = Metric(**arrays, broken={int(k): str(v)[:1000] for k, v in broken.items()})
            if not all(0 <= index < len(found.done) for index in found.broken):
                raise ValueError("images that there are not")
            return found

    def save(self, metric: Metric) -> None:
        """Write `metric` whole."""
        arrays = {name: array for name, array in metric.arrays().items() if array is not None}
        with atomic_path(self.mine, force=True) as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream,
                identity=np.array(self._identity),
                broken=np.array(json.dumps(metric.broken)),
                **arrays,  # type: ignore[arg-type]
            )

    def remove(self) -> None:
        """The run is complete."""
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
