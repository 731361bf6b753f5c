"""SequenceSet: labelled sequences of one length in memory; and EdgeML's arrays of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strzoo.data.digits import load_digits
from strzoo.errors import IntegrityError, UsageError
from strzoo.rnn.arrays import read_npy

SPLITS = ("train", "test")


@dataclass(frozen=True)
class SequenceSet:
    """`sequences` float32 [N, T, in], `labels` int64 [N] from 0, `class_names` if known."""

    sequences: Tensor
    labels: Tensor
    num_classes: int
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sequences.dim() != 3 or self.labels.shape != self.sequences.shape[:1]:
            raise UsageError(
                f"sequences {list(self.sequences.shape)} and labels {list(self.labels.shape)} are "
                "not [N, T, in] and [N]"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < (
            self.num_classes
        ):
            raise UsageError(f"labels must lie in 0 to {self.num_classes - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps(self) -> int:
        return self.sequences.shape[1]

    @property
    def features(self) -> int:
        return self.sequences.shape[2]


def check_split(split: str, choices: tuple[str, ...] = SPLITS) -> None:
    """A UsageError unless `split` is one of `choices`."""
    if split not in choices:
        raise UsageError(f"split {split!r} is not one of {', '.join(choices)}")


def load_digit_rows(split: str = "train") -> SequenceSet:
    """The bundled digits read row by row: 8 steps of 8 pixels (`strzoo.load_digits`).

    Args:
        split: "train" (1,437) or "test" (360).

    Returns:
        [N, 8, 8], normalised as the images are.

    Raises:
        UsageError: `split` is neither.
    """
    check_split(split)
    images = load_digits(split)
    names = tuple(str(digit) for digit in range(images.num_classes))
    return SequenceSet(images.images[:, 0].contiguous(), images.labels, images.num_classes, names)


def load_edgeml_arrays(folder: str | os.PathLike[str], features: int) -> dict[str, SequenceSet]:
    """EdgeML's `train.npy` and `test.npy`: rows of a label and T x `features` values, the first
    step first. Labels are counted from the smallest one of both files.

    Args:
        folder: holds both files.
        features: values of a step.

    Returns:
        The sets by split, "train" and "test".

    Raises:
        StrzooError: a file is missing or unreadable.
        IntegrityError: it is no such array.
        UsageError: `features` does not divide the length of the rows.
    """
    if features < 1:
        raise UsageError(f"features is {features}; it must be at least 1")
    arrays = {split: _read_rows(Path(folder) / f"{split}.npy", features) for split in SPLITS}
    lengths = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise IntegrityError(f"{folder}: the rows of train.npy and test.npy differ: {lengths}")
    least = min(int(array[:, 0].min()) for array in arrays.values())
    classes = max(int(array[:, 0].max()) for array in arrays.values()) - least + 1
    made = {}
    for split, array in arrays.items():
        values = torch.from_numpy(array[:, 1:].astype(np.float32))
        labels = torch.from_numpy(array[:, 0].astype(np.int64) - least)
        made[split] = SequenceSet(values.reshape(len(array), -1, features), labels, classes)
    return made


def _read_rows(file: Path, features: int) -> np.ndarray:
    array = read_npy(file)
    if array.ndim != 2 or not array.shape[0]:
        raise IntegrityError(f"{file} is no array [N, 1 + T x features] of numbers")
    if array.shape[1] < 1 + features or (array.shape[1] - 1) % features:
        raise UsageError(
            f"{file}: rows of {array.shape[1] - 1} values after the label are no multiple of "
            f"features={features}"
        )
    labels = array[:, 0]
    if not np.isfinite(array).all() or (labels != np.round(labels)).any():
        raise IntegrityError(f"{file} has a label that is no whole number, or a value not finite")
    if np.ptp(labels) >= len(labels):
        raise IntegrityError(f"{file}: labels from {labels.min():g} to {labels.max():g} are no "
                             "classes; the first column is the label")  # fmt: skip
    return array
