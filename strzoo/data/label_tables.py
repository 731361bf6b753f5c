"""Tables that name the class of each image: CSV, TSV, JSON and JSON lines, whatever their columns.

The column of the images is the one whose cells are names of images; the label's is told by its
name, or is the only other one. A column per class, of zeros and a one, is a label as well.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from strzoo.borders import lines_of
from strzoo.data.trees import is_image
from strzoo.errors import IntegrityError

SUFFIXES = (".csv", ".tsv", ".jsonl")
LABEL_COLUMNS = ("label", "labels", "class", "class_id", "class_index", "category", "target",
                 "wnid", "synset", "cls", "y")  # fmt: skip
_DELIMITERS = ",;\t"
_SHOWN = 8

Row = tuple[int, str, str]  # line, image, label


def read_rows(path: Path, text: str, images: Iterable[str]) -> tuple[list[Row], list[str]]:
    """The label of each image that a table names, and the names of the classes if its columns are
    the classes.

    Args:
        path: for its suffix and for messages.
        text: of the file.
        images: names of the images.

    Raises:
        IntegrityError: no column names images, or none labels them.
        ValueError: it is no JSON.
    """
    table = _read_json(path, text) if path.suffix.startswith(".json") else _read_csv(path, text)
    known = {key for name in images for key in suffixes(name)}
    first = table[:2]
    columns = [j for j in range(max(map(len, (row for _, row in first)), default=0))
               if any(j < len(row) and _is_known(row[j], known) for _, row in first)]  # fmt: skip
    if not columns:
        raise IntegrityError(f"{path}: expected a column with names of the images that are there")
    named = [j for j in columns if not first[0][1][j].strip().isdigit()]
    image = (named or columns)[-1 if len(columns) > 1 else 0]
    headed = len(table) > 1 and not _is_known(first[0][1][image], known)
    header = [cell.strip() for cell in first[0][1]] if headed else []
    body = table[1:] if headed else table
    others = [j for j in range(len(first[-1][1])) if j != image]
    label = next((j for name in LABEL_COLUMNS for j in others
                  if j < len(header) and header[j].lower() == name), None)  # fmt: skip
    if label is None and len(others) == 1:
        label = others[0]
    if label is None and headed and all(_hot(row, others) is not None for _, row in body):
        classes = [header[j] for j in others]
        return [(n, row[image], str(_hot(row, others))) for n, row in body], classes
    if label is None:
        shown = ", ".join(header[:_SHOWN]) or f"{len(others) + 1} columns without names"
        raise IntegrityError(
            f"{path}: which column is the label? It has {shown}; call it {LABEL_COLUMNS[0]!r}"
        )
    rows = []
    for number, row in body:
        if len(row) <= max(image, label):
            raise IntegrityError(f"{path}, line {number}: {len(row)} columns, not {len(header)}")
        rows.append((number, row[image].strip(), plain(row[label])))
    return rows, []


def suffixes(image: str) -> list[str]:
    """What may name an image: its path without the extension, longest first, down to its name."""
    image = image.strip().replace("\\", "/").removeprefix("./")
    parts = (image.rsplit(".", 1)[0] if is_image(image) else image).split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def match_images(
    path: Path, rows: Iterable[tuple[int, str, int]], images: Sequence[str]
) -> Mapping[str, tuple[int, ...]]:
    """The label of each image by the longest part of its path that the rows name.

    Raises:
        IntegrityError: what they call it has several labels.
    """
    places: dict[str, dict[int, int]] = {}
    for number, image, label in rows:
        for key in suffixes(image):
            places.setdefault(key, {}).setdefault(label, number)
    found: dict[str, tuple[int, ...]] = {}
    for image in images:
        key = next((k for k in suffixes(image) if k in places), "")
        if not key:
            continue
        if len(places[key]) > 1:
            lines = " and ".join(map(str, sorted(places[key].values())[:2]))
            raise IntegrityError(f"{path}, lines {lines}: {key[:60]!r} has several labels")
        found[image] = tuple(places[key])
    return found


def _is_known(cell: str, known: set[str]) -> bool:
    return any(key in known for key in suffixes(cell))


def _hot(row: Sequence[str], columns: Sequence[int]) -> int | None:
    """Which of the columns is one, if all others are zero."""
    try:
        values = [float(row[j]) for j in columns]
    except (ValueError, IndexError):
        return None
    return values.index(1.0) if sorted(values) == [*[0.0] * (len(values) - 1), 1.0] else None


def find_delimiter(text: str, images: Iterable[str]) -> str | None:
    """What separates the cells of a text whose lines have no spaces, where one of its first cells
    names an image; None if it is no table."""
    known = {key for name in images for key in suffixes(name)}
    for line in [line for line in lines_of(text) if line.strip()][:2]:
        delimiter = _delimiter(line)
        if delimiter in line and any(_is_known(c, known) for c in line.split(delimiter)):
            return delimiter
    return None


def plain(label: str) -> str:
    """A label as text; pandas writes whole numbers as 3.0 where a cell is missing."""
    label = label.strip()
    whole, dot, rest = label.partition(".")
    return whole if dot and whole.isdigit() and rest.strip("0") == "" else label


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _read_csv(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, with the lines in which they end; a cell in quotes may have
    several."""
    lines = [f"{line}\n" for line in lines_of(text)]
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    rows = csv.reader(lines, delimiter=_delimiter(first), skipinitialspace=True, strict=True)
    found = []
    try:
        for row in rows:
            if any(cell.strip() for cell in row) and not row[0].startswith("#"):
                found.append((rows.line_num, row))
    except csv.Error as error:
        raise IntegrityError(f"{path}, line {rows.line_num}: no valid table: {error}") from error
    return found


def _read_json(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """A mapping of images to labels, or a list or lines of objects, as rows below a header."""
    if path.suffix == ".jsonl":
        found = [json.loads(line) for line in lines_of(text) if line.strip()]
    else:
        found = json.loads(text)
    if isinstance(found, dict):
        found = [{"image": image, "label": label} for image, label in found.items()]
    if not isinstance(found, list) or not found or not all(isinstance(o, dict) for o in found):
        raise IntegrityError(
            f"{path}: expected labels by the names of images, or a list of objects"
        )
    header = [str(key) for key, value in found[0].items() if isinstance(value, str | int | float)]
    rows = [(n, [str(o.get(key, "")) for key in header]) for n, o in enumerate(found, 1)]
    return [(0, header), *rows]
