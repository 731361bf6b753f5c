"""HAR-2: the UCI data set "Human Activity Recognition Using Smartphones" with two classes.

Sequences are 128 steps of nine signals (2.56 s at 50 Hz). The FastGRNN paper merges sitting, laying
and walking upstairs into one class and the other three activities into the other.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from strzoo.borders import read_text, reading
from strzoo.errors import IntegrityError, StrzooError
from strzoo.rnn.datasets.sequences import SequenceSet, check_split

STEPS = 128
SIGNALS = tuple(
    f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"
)
# Numbers of the activities in the files: 1 walking, 2 walking upstairs, 3 walking downstairs,
# 4 sitting, 5 standing, 6 laying.
ACTIVITIES = (1, 2, 3, 4, 5, 6)
MERGED = (2, 4, 6)
CLASS_NAMES = ("sitting, laying, walking upstairs", "walking, walking downstairs, standing")
_FOLDER = "UCI HAR Dataset"


def load_har2(folder: str | os.PathLike[str], split: str = "train") -> SequenceSet:
    """HAR-2 from the unpacked text files.

    Args:
        folder: `UCI HAR Dataset`, or the folder that holds it.
        split: "train" (7,352 sequences) or "test" (2,947).

    Returns:
        [N, 128, 9] in the order of `SIGNALS`, as the files have them (not normalised); class 0 is
        sitting, laying, walking upstairs.

    Raises:
        StrzooError: a file is missing or unreadable.
        IntegrityError: a file is not what it should be; it is named.
    """
    check_split(split)
    root = Path(folder)
    if (root / _FOLDER).is_dir():
        root = root / _FOLDER
    labels = _read(root / split / f"y_{split}.txt", 1)[:, 0]
    if odd := sorted(set(labels.tolist()) - set(ACTIVITIES)):
        raise IntegrityError(f"y_{split}.txt holds activity {odd[0]:g}; expected 1 to 6")
    signals = []
    for name in SIGNALS:
        file = root / split / "Inertial Signals" / f"{name}_{split}.txt"
        signals.append(_read(file, STEPS))
        if len(signals[-1]) != len(labels):
            raise IntegrityError(f"{file} has {len(signals[-1])} rows for {len(labels)} labels")
    return SequenceSet(
        torch.from_numpy(np.stack(signals, axis=2)),
        torch.from_numpy(np.isin(labels, MERGED, invert=True).astype(np.int64)),
        2,
        CLASS_NAMES,
    )


def _read(file: Path, columns: int) -> np.ndarray:
    if not file.exists():
        raise StrzooError(
            f"{file} does not exist; give the folder of the unpacked data set '{_FOLDER}'"
        )
    text = read_text(file, "a table of numbers")
    with reading(file, "a table of numbers"):
        values = np.loadtxt(text.splitlines(), dtype=np.float32, ndmin=2)
    if values.shape[1] != columns or not np.isfinite(values).all():
        raise IntegrityError(
            f"{file} is no table of {columns} finite numbers a row, but {list(values.shape)}"
        )
    return values
