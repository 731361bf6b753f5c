"""Label files of flat folders: the devkit's, Kaggle's, lists of wnids or classes, tables, ReaL.

Each is read into a function from an image's name to the network outputs that count as right.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from strzoo.borders import lines_of, read_text, reading
from strzoo.data.class_order import ClassOrder, imagenet_order, is_class_list
from strzoo.data.image_numbers import match_lines
from strzoo.data.imagenet_classes import COUNT, index_by_devkit_id, is_wnid
from strzoo.data.label_tables import (
    SUFFIXES,
    Row,
    find_delimiter,
    match_images,
    plain,
    read_rows,
)
from strzoo.data.trees import read_member
from strzoo.errors import IntegrityError, UsageError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = "ILSVRC2012_devkit_t12"
KAGGLE = "LOC_val_solution.csv"
REAL = "real.json"
REAL_LABELS = "ReaL labels"
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
    *("labels.csv", "metadata.csv", "metadata.jsonl", "labels.tsv", "labels.json", "val.csv"),
)
ACCEPTED = (
    f"{GROUND_TRUTH} (the devkit, also inside {DEVKIT}.tar.gz), {KAGGLE} (Kaggle), a text file "
    "with a wnid or class per image (val.txt, wnids.txt, labels.txt), or a table (labels.csv)"
)
_ODD_NUMBER = re.compile(r"[+-][0-9.]+|[0-9]*\.[0-9]+|[0-9.]+e[+-]?[0-9]+")
_KIND = "a label file"
_KAGGLE_HEADER = "ImageId,PredictionString"


@dataclass(frozen=True)
class LabelFile:
    """What a label file says: `find(name)` gives the right outputs of an image, or None. `order` is
    that of the classes."""

    description: str
    find: Callable[[str], Sequence[int] | None]
    order: ClassOrder


def find_label_file(folders: Sequence[Path]) -> Path | None:
    """The first label file in those folders, in the order of `CANDIDATES`."""
    for folder in folders:
        for candidate in CANDIDATES:
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def read_label_file(
    path: Path, names: Sequence[str], order: ClassOrder | None = None, num_classes: int = COUNT
) -> LabelFile:
    """The labels in `path` for images of these names.

    Args:
        path: the file; text of every Unicode encoding.
        names: of the images.
        order: of the classes that it names. By default numbers are outputs, wnids are ImageNet's,
            and other names are in the order of their names if they are as many as the outputs.
        num_classes: outputs of the network.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is none of the accepted forms; the offending line is shown.
        UsageError: it lists the classes, not the images, or other classes than the network has.
    """
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with reading(path, _KIND):
            text = read_member(path, GROUND_TRUTH).decode("ascii")
    else:
        text = read_text(path, _KIND)
    with reading(path, _KIND) as place:
        if path.name == REAL or (path.suffix == ".json" and re.match(r"\s*\[\s*\[", text)):
            return _real(path, text, names)
        if path.name == KAGGLE or text.startswith(_KAGGLE_HEADER):
            return _kaggle(path, text, order or imagenet_order())
        if path.suffix in (*SUFFIXES, ".json"):
            return _from_table(path, text, names, order, num_classes)
        lines = [(n, line) for n, line in enumerate(lines_of(text), 1) if line.strip()]
        if not lines:
            raise IntegrityError(f"{path} is empty; accepted are {ACCEPTED}")
        if find_delimiter(text, names) in (",", ";"):
            return _from_table(path, text, names, order, num_classes)
        if all(len(line.split()) == 1 for _, line in lines):
            listed = [(n, plain(line)) for n, line in lines]
            chosen = order or _order_of(path, [word for _, word in listed], num_classes)
            return _list_of_labels(path, listed, names, chosen, num_classes)
        known = {_stem(name) for name in names}
        rows = []
        for number, line in lines:
            place.at = f"line {number}"
            rows.append((number, *_split_line(line, known)))
    return _by_name(path, rows, names, order, num_classes, "a wnid text file")


def _from_table(
    path: Path, text: str, names: Sequence[str], order: ClassOrder | None, num_classes: int
) -> LabelFile:
    rows, classes = read_rows(path, text, names)
    if classes:
        if order is None:
            order = ClassOrder({name: i for i, name in enumerate(classes)}, tuple(classes),
                               f"columns of {path.name}")  # fmt: skip
        rows = [(number, image, classes[int(label)]) for number, image, label in rows]
    return _by_name(path, rows, names, order, num_classes, f"labels of {path.name}")


def _by_name(
    path: Path,
    rows: Sequence[Row],
    names: Sequence[str],
    order: ClassOrder | None,
    num_classes: int,
    description: str,
) -> LabelFile:
    order = order or _order_of(path, [label for _, _, label in rows], num_classes)
    labelled = [(n, image, _label_index(path, n, label, order, num_classes))
                for n, image, label in rows]  # fmt: skip
    table = match_images(path, labelled, names)
    return LabelFile(description, table.get, order)


def _order_of(path: Path, labels: Sequence[str], num_classes: int) -> ClassOrder:
    """The order of the classes that labels name, where no folders tell it."""
    classes = sorted(set(labels))
    if num_classes == COUNT or any(map(is_wnid, classes)):
        return imagenet_order()
    if all(map(_is_number, classes)):
        return ClassOrder({}, (), "outputs")
    if odd := [name for name in classes if _ODD_NUMBER.fullmatch(name)]:
        raise UsageError(
            f"{path} has the label {odd[0][:60]!r}: a class is a whole number from 0 to "
            f"{num_classes - 1}, or a name"
        )
    if len(classes) != num_classes:
        raise UsageError(
            f"{path} names {len(classes)} classes ({', '.join(classes[:3])}, ...), the model has "
            f"{num_classes}: give numbers from 0 on"
        )
    note = "the classes are taken in the order of their names"
    return ClassOrder({name: i for i, name in enumerate(classes)}, tuple(classes),
                      f"names in {path.name}", notes=(note,))  # fmt: skip


def _list_of_labels(
    path: Path,
    lines: Sequence[tuple[int, str]],
    names: Sequence[str],
    order: ClassOrder,
    num_classes: int,
) -> LabelFile:
    """One label a line, for the images in their order."""
    if all(_is_number(value) for _, value in lines) and order.imagenet:
        labels = [_devkit_index(path, n, value) for n, value in lines]
        return LabelFile("the devkit's ground truth", match_lines(path, labels, names), order)
    if is_class_list(path, [value for _, value in lines]):
        raise UsageError(
            f"{path} lists the classes of the set, not the labels of its images; name the label "
            "file with --labels"
        )
    labels = [_label_index(path, n, value, order, num_classes) for n, value in lines]
    return LabelFile("a wnid text file", match_lines(path, labels, names), order)


def _split_line(line: str, known: set[str]) -> tuple[str, str]:
    """Image and label of a line; names may hold spaces where tabs or the known names tell."""
    cells = line.split("\t") if "\t" in line else line.split()
    if _stem(cells[0].strip()) not in known and _stem(line.strip().rsplit(None, 1)[0]) in known:
        cells = line.strip().rsplit(None, 1)
    return cells[0].strip(), plain(cells[min(1, len(cells) - 1)])


def read_real(path: Path, names: Sequence[str]) -> LabelFile:
    """ReaL labels: a JSON list with the accepted outputs of each validation image, by number.

    Raises:
        StrzooError, IntegrityError: the file cannot be read, or is something else.
    """
    return _real(path, read_text(path, "a ReaL file"), names)


def _real(path: Path, text: str, names: Sequence[str]) -> LabelFile:
    with reading(path, "valid JSON"):
        sets = json.loads(text)
    right = isinstance(sets, list) and all(
        isinstance(s, list) and all(type(i) is int and 0 <= i < COUNT for i in s) for s in sets
    )
    if not right:
        raise IntegrityError(
            f"{path} is not a ReaL file: expected a list of lists of class numbers below {COUNT}"
        )
    sets = [tuple(dict.fromkeys(s)) for s in sets]
    return LabelFile(REAL_LABELS, match_lines(path, sets, names, exact=True), imagenet_order())


def _kaggle(path: Path, text: str, order: ClassOrder) -> LabelFile:
    rows = [row for row in csv.reader(f"{line}\n" for line in lines_of(text)) if row]
    if not rows or rows[0][:2] != _KAGGLE_HEADER.split(","):
        raise IntegrityError(f"{path}: expected the columns {_KAGGLE_HEADER}")
    table = {}
    for number, row in enumerate(rows[1:], 2):
        wnids = [word for word in (row[1].split() if len(row) > 1 else []) if is_wnid(word)]
        if not wnids:
            raise IntegrityError(f"{path}, line {number}: no wnid in {','.join(row)[:60]!r}")
        # One entry per box; all boxes of an image are of its one class.
        table[_stem(row[0])] = (_label_index(path, number, wnids[0], order, COUNT),)
    return LabelFile("Kaggle's LOC_val_solution.csv", lambda n: table.get(_stem(n)), order)


def read_class_names(path: Path) -> list[str]:
    """Names of a network's classes from a text file, one a line, or from a JSON list.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is no text.
        UsageError: it is JSON but not a list of texts.
    """
    text = read_text(path, "a list of class names")
    if not text.lstrip().startswith("["):
        return [line.strip() for line in lines_of(text) if line.strip()]
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a JSON list of names: {error}") from error
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f"{path} is not a JSON list of names: not all are texts")
    return list(names)


def _label_index(path: Path, line: int, label: str, order: ClassOrder, num_classes: int) -> int:
    """The output of a class by its name, or by its index in the sorted order (Caffe's lists)."""
    if label in order.index:
        return order.index[label]
    if _is_number(label):
        count = len(order.names) or num_classes
        if int(label) >= count:
            raise IntegrityError(f"{path}, line {line}: class {label} is not below {count}")
        return int(label)
    label = label or "nothing"
    whose = "the 1000 ImageNet classes" if order.imagenet else f"the {len(order.names)} classes"
    raise IntegrityError(f"{path}, line {line}: {label[:60]!r} is not one of {whose}")


def _devkit_index(path: Path, line: int, text: str) -> int:
    index = index_by_devkit_id().get(int(text))
    if index is None:
        raise IntegrityError(f"{path}, line {line}: {text} is not a devkit class (1 to {COUNT})")
    return index


def _is_number(text: str) -> bool:
    """Whether a text is a small number in ASCII digits; int() takes more, and refuses some."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
