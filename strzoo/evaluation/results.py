"""What an evaluation is asked for and what it finds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strzoo.errors import UsageError

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
UNREAD = -1  # the prediction of an image that could not be read
SUSPICIOUS_TOP1 = 1.0  # percent
_Z95 = 1.959963984540054  # the 97.5th percentile of the normal distribution
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Timing:
    """Seconds. `setup` (loading the network, listing the data), `total` (from then to the end)
    and `first_batch` (from the call to the first batch at the network) are wall time; `waiting`
    is what the network waited for images. `decode` is summed over the workers, `transfer` and
    `forward` over the devices; with a GPU these overlap."""

    setup: float = 0.0
    total: float = 0.0
    first_batch: float = 0.0
    waiting: float = 0.0
    decode: float = 0.0
    transfer: float = 0.0
    forward: float = 0.0


@dataclass(frozen=True)
class SubsetResult:
    """Counts when the network may answer with the data set's own classes only."""

    classes: tuple[int, ...]
    correct_top1: int
    correct_top5: int


@dataclass(frozen=True)
class DecoderCheck:
    """The same `images` decoded on the device and by PIL: percent, and differing predictions."""

    images: int
    top1: float
    pil_top1: float
    different_predictions: int


@dataclass(frozen=True)
class ClassResult:
    """One class: how many of its `images` were right."""

    index: int
    name: str
    images: int
    correct_top1: int
    correct_top5: int


@dataclass(frozen=True)
class EvalResult:
    """Integer counts over `images` images, mean cross-entropy `loss` of the readable ones, and
    the predicted class of each image (int64 [images]; -1 where it could not be read).

    The other fields are known when files were evaluated: `ranked` (int64 [images, 5], best
    first) and `labels` (int64 [images, L], filled up with -1) in the order of `names`, where the
    images came from, what computed them and how long it took.
    """

    images: int
    correct_top1: int
    correct_top5: int
    loss: float
    predictions: Tensor = field(repr=False, compare=False)
    model: str = ""
    data: str = ""
    layout: str = ""
    num_classes: int = 0
    weights_sha256: str = ""
    published_top1: float | None = None
    precision: str = "fp32"
    device: str = "cpu"
    decoder: str = "pil"
    batch_size: int = 0
    workers: int = 0
    processes: int = 1
    resumed: int = 0
    subset: SubsetResult | None = None
    decoder_check: DecoderCheck | None = None
    broken: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    timing: Timing = field(default_factory=Timing, compare=False)
    versions: Mapping[str, str] = field(default_factory=lambda: _NOTHING, compare=False)
    names: Sequence[str] = field(default=(), repr=False, compare=False)
    class_names: Sequence[str] = field(default=(), repr=False, compare=False)
    ranked: Tensor | None = field(default=None, repr=False, compare=False)
    labels: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def top1(self) -> float:
        """Percent of images whose label is the predicted class."""
        return 100.0 * self.correct_top1 / self.images

    @property
    def top5(self) -> float:
        """Percent of images whose label is among the five most likely classes."""
        return 100.0 * self.correct_top5 / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval of top-1, in percent."""
        low, high = wilson_interval(self.correct_top1, self.images)
        return 100.0 * low, 100.0 * high

    @property
    def difference(self) -> float | None:
        """Measured minus published top-1, in percentage points."""
        return None if self.published_top1 is None else self.top1 - self.published_top1

    @property
    def images_per_second(self) -> float:
        """Of this run: images that an earlier, interrupted one evaluated are not counted."""
        fresh = self.images - self.resumed
        return fresh / self.timing.total if self.timing.total else 0.0

    def per_class(self) -> tuple[ClassResult, ...]:
        """The counts by class, for the classes that occur; an image with several labels counts
        for its first.

        Raises:
            UsageError: only counts are known, because batches were evaluated.
        """
        if self.ranked is None or self.labels is None:
            raise UsageError("per-class accuracy needs a data set, not loose batches")
        first = self.labels[:, 0]
        hits = find_hits(self.ranked.numpy(), self.labels.numpy())
        rows = []
        for index in first.unique().tolist():
            mine = (first == index).numpy()
            name = self.class_names[index] if index < len(self.class_names) else ""
            rows.append(
                ClassResult(
                    index, name, int(mine.sum()), int(hits[mine, 0].sum()), int(hits[mine].sum())
                )
            )
        return tuple(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, per-image arrays left out."""
        hidden = ("predictions", "names", "class_names", "ranked", "labels")
        document = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden
        }
        document |= {
            "top1": self.top1,
            "top5": self.top5,
            "top1_interval_95": list(self.interval),
            "difference": self.difference,
            "images_per_second": self.images_per_second,
            "timing": dataclasses.asdict(self.timing),
            "versions": dict(self.versions),
            "broken": [{"image": name, "reason": reason} for name, reason in self.broken],
            "decoder_check": self.decoder_check and dataclasses.asdict(self.decoder_check),
            "subset": self.subset
            and {
                "classes": len(self.subset.classes),
                "correct_top1": self.subset.correct_top1,
                "correct_top5": self.subset.correct_top5,
                "top1": 100.0 * self.subset.correct_top1 / self.images,
                "top5": 100.0 * self.subset.correct_top5 / self.images,
            },
        }
        return {"schema": 1, **document}


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a proportion after Wilson (1927), as fractions."""
    share, z2 = correct / images, _Z95 * _Z95
    centre = share + z2 / (2 * images)
    half = _Z95 * math.sqrt(share * (1 - share) / images + z2 / (4 * images * images))
    scale = 1 + z2 / images
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def find_hits(ranked: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [N, K]: column k says whether the k-th answer is the first right one of an image.

    Args:
        ranked: int [N, K], best answer first, -1 for none.
        labels: int [N, L], filled up with -1.
    """
    right = ((ranked[:, :, None] == labels[:, None, :]) & (labels[:, None, :] >= 0)).any(axis=2)
    first: np.ndarray = right & (np.cumsum(right, axis=1) == 1)
    return first


def as_tensor(values: np.ndarray) -> Tensor:
    """An int64 tensor of its own memory."""
    return torch.from_numpy(values.astype(np.int64))
