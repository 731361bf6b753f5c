"""Label files of flat ImageNet folders: the devkit's, Kaggle's, lists of wnids, ReaL.

Each is read into a function from an image's name to the network outputs that count as right.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from strzoo.data.imagenet_classes import COUNT, find_index, index_by_devkit_id, is_wnid
from strzoo.errors import IntegrityError, StrzooError, UsageError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = "ILSVRC2012_devkit_t12"
KAGGLE = "LOC_val_solution.csv"
REAL = "real.json"
# Where a label file is looked for, relative to the images' folder and to its parents.
CANDIDATES = (
    KAGGLE,
    GROUND_TRUTH,
    f"{DEVKIT}/data/{GROUND_TRUTH}",
    f"data/{GROUND_TRUTH}",
    f"{DEVKIT}.tar.gz",
    "val_annotations.txt",
    "val.txt",
    "wnids.txt",
    "wnid.txt",
    "labels.txt",
    "val_labels.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
)
ACCEPTED = (
    f"{GROUND_TRUTH} (the devkit, also inside {DEVKIT}.tar.gz), {KAGGLE} (Kaggle), or a text file "
    "with a wnid per image (val.txt, wnids.txt, labels.txt)"
)
_NUMBER = re.compile(r"(\d+)(?=\.[^.]*$)")


@dataclass(frozen=True)
class LabelFile:
    """What a label file says: `find(name)` gives the right outputs of an image, or None."""

    description: str
    find: Callable[[str], Sequence[int] | None]


def find_label_file(folders: Sequence[Path]) -> Path | None:
    """The first label file in those folders, in the order of `CANDIDATES`."""
    for folder in folders:
        for candidate in CANDIDATES:
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def read_label_file(path: Path, names: Sequence[str]) -> LabelFile:
    """The labels in `path` for images of these names.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is none of the accepted forms; the offending line is shown.
    """
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        lines = _from_devkit(path)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StrzooError(f"cannot read {path}: {error}") from error
        if path.suffix == ".json":
            return _real(path, text, names)
        if path.suffix == ".csv":
            return _kaggle(path, text)
        lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise IntegrityError(f"{path} is empty; accepted are {ACCEPTED}")
    words = [line.split() for line in lines]
    if all(len(row) == 1 for row in words):
        values = [row[0] for row in words]
        if all(value.isdigit() for value in values):
            labels = [_devkit_index(path, n, value) for n, value in enumerate(values, 1)]
            return LabelFile("the devkit's ground truth", _by_number(path, labels, names))
        labels = [_wnid_index(path, n, value) for n, value in enumerate(values, 1)]
        return LabelFile("a wnid text file", _by_number(path, labels, names))
    table = {}
    for number, row in enumerate(words, 1):
        leaf = row[0].rsplit("/", 1)[-1]
        # Caffe's lists hold the index in sorted order, the others the wnid.
        index = int(row[1]) if len(row) > 1 and row[1].isdigit() else None
        if index is None:
            index = _wnid_index(path, number, row[1] if len(row) > 1 else row[0])
        elif index >= COUNT:
            raise IntegrityError(f"{path}, line {number}: class {index} is not below {COUNT}")
        table[_stem(leaf)] = (index,)
    return LabelFile("a wnid text file", lambda name: table.get(_stem(name)))


def read_real(path: Path, names: Sequence[str]) -> LabelFile:
    """ReaL labels: a JSON list with the accepted outputs of each validation image, by number.

    Raises:
        StrzooError, IntegrityError: the file cannot be read, or is something else.
    """
    try:
        return _real(path, path.read_text(encoding="utf-8"), names)
    except (OSError, UnicodeDecodeError) as error:
        raise StrzooError(f"cannot read {path}: {error}") from error


def _real(path: Path, text: str, names: Sequence[str]) -> LabelFile:
    try:
        sets = json.loads(text)
    except json.JSONDecodeError as error:
        raise IntegrityError(f"{path} is not valid JSON: {error}") from error
    right = isinstance(sets, list) and all(
        isinstance(s, list) and all(type(i) is int and 0 <= i < COUNT for i in s) for s in sets
    )
    if not right:
        raise IntegrityError(
            f"{path} is not a ReaL file: expected a list of lists of class numbers below {COUNT}"
        )
    return LabelFile("ReaL labels", _by_number(path, [tuple(s) for s in sets], names, exact=True))


def _kaggle(path: Path, text: str) -> LabelFile:
    rows = list(csv.reader(text.splitlines()))
    if not rows or rows[0][:2] != ["ImageId", "PredictionString"]:
        raise IntegrityError(f"{path}: expected the columns ImageId, PredictionString")
    table = {}
    for number, row in enumerate(rows[1:], 2):
        wnids = [word for word in (row[1].split() if len(row) > 1 else []) if is_wnid(word)]
        if not wnids:
            raise IntegrityError(f"{path}, line {number}: no wnid in {','.join(row)[:60]!r}")
        # One entry per box; all boxes of an image are of its one class.
        table[_stem(row[0])] = (_wnid_index(path, number, wnids[0]),)
    return LabelFile("Kaggle's LOC_val_solution.csv", lambda name: table.get(_stem(name)))


def _from_devkit(path: Path) -> list[str]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(GROUND_TRUTH) and (stream := archive.extractfile(member)):
                    return stream.read().decode("ascii").split()
    except (OSError, tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); fetch it again") from error
    raise IntegrityError(f"{path} holds no {GROUND_TRUTH}")


def _by_number(
    path: Path,
    labels: Sequence[int] | Sequence[tuple[int, ...]],
    names: Sequence[str],
    *,
    exact: bool = False,
) -> Callable[[str], Sequence[int] | None]:
    """Line n belongs to the image whose name ends in n (ILSVRC2012_val_00000001 is the first);
    for names without such numbers, to the n-th image in name order if there are as many."""
    sets = [entry if isinstance(entry, tuple) else (entry,) for entry in labels]
    numbers = {name: int(m[1]) for name in names if (m := _NUMBER.search(name))}
    values = set(numbers.values())
    if len(values) == len(names) and values and min(values) >= 1 and max(values) <= len(sets):
        return lambda name: sets[numbers[name] - 1]
    if exact or len(names) != len(sets):
        raise UsageError(
            f"{path} has {len(sets)} lines for {len(names)} images whose names do not end in "
            "their number (as ILSVRC2012_val_00000001.JPEG does): it cannot be said which is which"
        )
    order = {name: position for position, name in enumerate(sorted(names))}
    return lambda name: sets[order[name]]


def _wnid_index(path: Path, line: int, wnid: str) -> int:
    try:
        return find_index(wnid)
    except UsageError as error:
        raise IntegrityError(f"{path}, line {line}: {error}") from error


def _devkit_index(path: Path, line: int, text: str) -> int:
    index = index_by_devkit_id().get(int(text))
    if index is None:
        raise IntegrityError(f"{path}, line {line}: {text} is not a devkit class (1 to {COUNT})")
    return index


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
