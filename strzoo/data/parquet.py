"""Hugging Face parquet shards: a column of encoded images and a column of labels.

pyarrow is optional: `pip install strzoo[parquet]`.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.borders import open_file, reading
from strzoo.data.imagenet_classes import COUNT, index_by_wnid, is_wnid
from strzoo.data.samples import Samples, single_labels
from strzoo.errors import IntegrityError, StrzooError, install_advice
from strzoo.settings import Limits

# Names of columns as the hub's image classification sets have them, the best known first.
IMAGE_COLUMNS = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "class", "cls", "target",
                 "category", "label_id", "class_id", "class_label")  # fmt: skip
_ROW = 200  # bytes that the list of samples takes for each
_KIND = "a parquet file of images"
_COARSE = 20  # superclasses of CIFAR-100


@dataclass(frozen=True)
class _Shard:
    path: str
    image: str
    label: str
    labels: tuple[int, ...] | tuple[str, ...]
    groups: tuple[int, ...]  # rows of each
    class_names: tuple[str, ...]


def read_shards(
    shards: Sequence[Path], num_classes: int, *, split: str = "", limits: Limits | None = None
) -> Samples:
    """The images of the shards, one after the other.

    Args:
        shards: files with the same columns.
        num_classes: of the network; chooses between several label columns (CIFAR-100's fine and
            coarse ones).
        split: what the shards are, for the description.

    Raises:
        StrzooError: pyarrow is missing, or a shard cannot be read.
        IntegrityError: a shard is damaged or larger than the limits allow, or has no column of
            images and of labels.
    """
    limits = limits or Limits.from_env()
    read = [_read_shard(path, num_classes, limits) for path in shards]
    first = read[0]
    if odd := next((s for s in read if (s.image, s.label) != (first.image, first.label)), None):
        raise IntegrityError(
            f"{odd.path} has the columns {odd.image} and {odd.label}, {first.path} {first.image} "
            f"and {first.label}"
        )
    labels, class_names, wnids = _number_labels(read)
    groups: list[tuple[str, int, int]] = []  # shard, row group, first sample
    names: list[str] = []
    for shard in read:
        start = len(names)
        leaf = os.path.basename(shard.path)
        names += [f"{leaf}[{i}]" for i in range(len(shard.labels))]
        for number, rows in enumerate(shard.groups):
            groups.append((shard.path, number, start))
            start += rows
    count = f"{len(shards)} shard{'s' if len(shards) > 1 else ''}"
    columns = "" if (first.image, first.label) == ("image", "label") else (
        f", columns {first.image} and {first.label}"
    )  # fmt: skip
    return Samples(
        f"Hugging Face parquet ({count}{f', {split}' if split else ''}{columns})",
        str(shards[0].parent if len(shards) > 1 else shards[0]),
        ParquetSource(groups, first.image, limits),
        tuple(names),
        single_labels(labels),
        class_names=class_names,
        imagenet=wnids or len(class_names) == COUNT or max(labels, default=0) == COUNT - 1,
    )


def _read_shard(path: Path, num_classes: int, limits: Limits) -> _Shard:
    parquet = _import_pyarrow()
    labels: list[Any] = []
    groups = []
    with (
        reading(path, _KIND) as place,
        open_file(path) as stream,
        parquet.ParquetFile(stream) as file,
    ):
        limits.check("bytes", file.metadata.num_rows * _ROW, f"the list of {path}")
        schema = file.schema_arrow
        encoded = [f.name for f in schema if _holds_bytes(f.type)]
        image = encoded[0] if len(encoded) == 1 else (
            _find_column(path, schema.names, IMAGE_COLUMNS, "images"))  # fmt: skip
        known = _class_names(schema.metadata)
        label = _find_label(path, schema.names, num_classes, known)
        for group in range(file.num_row_groups):
            place.at = f"row group {group}"
            column = _read_column(file, group, label, limits, str(path))
            groups.append(len(column))
            labels += column
    if any(isinstance(v, bool) or not isinstance(v, int | str) for v in labels):
        raise IntegrityError(
            f"{path}: column {label} has missing labels, or others than class numbers and names"
        )
    if any(isinstance(v, int) and v < 0 for v in labels):
        raise IntegrityError(f"{path}: a label is missing or negative; a test split has no labels")
    return _Shard(str(path), image, label, tuple(labels), tuple(groups), known.get(label, ()))


def _number_labels(shards: Sequence[_Shard]) -> tuple[list[int], tuple[str, ...], bool]:
    """Labels as numbers, names of the classes if known, and whether they are wnids."""
    labels = [label for shard in shards for label in shard.labels]
    texts = {label for label in labels if isinstance(label, str)}
    if not texts:
        names = next((s.class_names for s in shards if s.class_names), ())
        return [int(label) for label in labels], names, False
    if not all(isinstance(label, str) for label in labels):
        raise IntegrityError(f"{shards[0].path}: its labels are partly numbers, partly texts")
    if all(map(is_wnid, texts)) and texts <= set(index_by_wnid()):
        return [index_by_wnid()[str(label)] for label in labels], (), True
    if all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        return [int(label) for label in labels], (), False  # as text 10 would come before 2
    order = {name: index for index, name in enumerate(sorted(texts))}
    return [order[str(label)] for label in labels], tuple(order), False


def _find_column(path: Path, columns: Sequence[str], known: Sequence[str], what: str) -> str:
    lower = {name.lower(): name for name in reversed(columns)}
    found = next((lower[name] for name in known if name in lower), None)
    if found is None:
        raise IntegrityError(
            f"{path} has the columns {', '.join(sorted(columns)[:12])}; none is known to hold "
            f"{what} ({', '.join(known)})"
        )
    return found


def _find_label(
    path: Path, columns: Sequence[str], num_classes: int, names: Mapping[str, Sequence[str]]
) -> str:
    """The label column; of several, the one with as many classes as the network."""
    fitting = [n for n in LABEL_COLUMNS if n in columns and len(names.get(n, ())) == num_classes]
    if fitting:
        return fitting[0]
    if num_classes == _COARSE and "coarse_label" in columns and "label" not in columns:
        return "coarse_label"
    listed = [name for name in columns if names.get(name)]
    if len(listed) == 1:  # whatever its name, `datasets` says that it holds classes
        return listed[0]
    return _find_column(path, columns, LABEL_COLUMNS, "labels")


def _holds_bytes(kind: Any) -> bool:
    """Whether a column of that type can hold encoded images."""
    if str(kind).startswith("struct"):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return str(kind) in ("binary", "large_binary")


class ParquetSource:
    """Encoded images out of row groups; each process keeps the one that it read last."""

    def __init__(self, groups: Sequence[tuple[str, int, int]], column: str, limits: Limits) -> None:
        self._groups, self._column, self._limits = tuple(groups), column, limits
        self._starts = [first for _, _, first in self._groups]
        self._held: tuple[int, int, list[Any]] | None = None  # process id, group, rows
        self._refused: dict[int, IntegrityError] = {}  # groups that need not be tried again

    def _read_group(self, shard: str, group: int) -> list[Any]:
        with reading(shard, _KIND) as place, open_file(shard) as stream:
            place.at = f"row group {group}"
            with _import_pyarrow().ParquetFile(stream) as file:
                return _read_column(file, group, self._column, self._limits, shard)

    def read(self, index: int) -> bytes:
        which = bisect.bisect_right(self._starts, index) - 1
        shard, group, first = self._groups[which]
        if which in self._refused:
            raise self._refused[which]
        if self._held is None or self._held[:2] != (os.getpid(), which):
            try:
                rows = self._read_group(shard, group)
            except IntegrityError as error:
                self._refused[which] = error
                raise
            self._held = (os.getpid(), which, rows)
        rows = self._held[2]
        if index - first >= len(rows):
            raise IntegrityError(
                f"{shard} is damaged: group {group} has {len(rows)} rows, its footer says more"
            )
        cell = rows[index - first]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            where = f"{shard}: row {index - first} of group {group}"
            raise IntegrityError(f"{where} has no image of its own (encoded bytes)")
        return content

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": None}


def _read_column(file: Any, group: int, column: str, limits: Limits, path: str) -> list[Any]:
    """One column of a row group as Python values.

    It is read in small batches: a value that the dictionary of a page holds once can come in every
    row, so that what a file claims to unfold to says little.
    """
    # Of all columns: asking one column aborts the process where its statistics are damaged.
    claimed = file.metadata.row_group(group).total_byte_size
    what = f"{path}, row group {group}"
    limits.check("bytes", claimed, what)
    rows = int(np.clip(limits.bytes // 2 // max(claimed, 1), 1, 1024))
    total = 0
    values: list[Any] = []
    for batch in file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
        found = batch.column(0).to_pylist()
        total += sum(_ROW + _measure(value) for value in found)
        limits.check("bytes", total, what)
        values += found
    return values


def _measure(value: Any) -> int:
    """Bytes that a cell holds, roughly."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_measure, value.values()))
    return sum(map(_measure, value)) if isinstance(value, list) else 8


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """The class names that `datasets` stores in the schema, by column."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        advice = install_advice("parquet")
        raise StrzooError(f"reading parquet needs pyarrow: {advice}") from None
    return pyarrow.parquet
