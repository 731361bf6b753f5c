"""Hugging Face parquet shards: a column `image` (encoded bytes) and a column `label`.

pyarrow is optional: `pip install strzoo[parquet]`.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strzoo.data.imagenet_classes import COUNT
from strzoo.data.samples import Samples, single_labels
from strzoo.errors import IntegrityError, StrzooError

_SPLITS = ("validation", "val", "test")
_FOLDERS = ("", "data", "default", "parquet")


def find_shards(folder: Path) -> list[Path]:
    """The parquet files of `folder` to evaluate on: of its validation (else test) split if the
    names tell, else all; [] if there are none."""
    for inner in _FOLDERS:
        shards = sorted(p for p in (folder / inner).glob("*.parquet") if p.is_file())
        for split in _SPLITS:
            if chosen := [p for p in shards if p.name.startswith((f"{split}-", f"{split}."))]:
                return chosen
        if shards:
            return shards
    for split in _SPLITS:
        if shards := sorted((folder / split).glob("*.parquet")):
            return shards
    return []


def read_shards(shards: Sequence[Path]) -> Samples:
    """The images of the shards, one after the other.

    Raises:
        StrzooError: pyarrow is missing.
        IntegrityError: a shard is damaged, or has no columns image and label.
    """
    pyarrow_parquet = _import_pyarrow()
    labels: list[int] = []
    names: list[str] = []
    groups: list[tuple[str, int, int]] = []  # shard, row group, first sample
    class_names: tuple[str, ...] = ()
    for shard in shards:
        try:
            with pyarrow_parquet.ParquetFile(shard) as file:
                columns = set(file.schema_arrow.names)
                if not {"image", "label"} <= columns:
                    raise IntegrityError(
                        f"{shard} has the columns {', '.join(sorted(columns))}; image and label "
                        "are needed"
                    )
                class_names = class_names or _class_names(file.schema_arrow.metadata)
                for group in range(file.num_row_groups):
                    groups.append((str(shard), group, len(labels)))
                    found = file.read_row_group(group, columns=["label"])["label"].to_pylist()
                    names += [f"{shard.name}[{len(names) + i}]" for i in range(len(found))]
                    labels += found
        except (OSError, ValueError) as error:  # pyarrow's errors are of these
            raise IntegrityError(f"{shard} is damaged or no parquet file ({error})") from error
    if any(type(label) is not int or label < 0 for label in labels):
        raise IntegrityError(
            f"{shards[0]}: a label is missing or negative; a test split has no labels"
        )
    return Samples(
        f"Hugging Face parquet ({len(shards)} shard{'s' if len(shards) > 1 else ''})",
        str(shards[0].parent if len(shards) > 1 else shards[0]),
        ParquetSource(groups, len(labels)),
        tuple(names),
        single_labels(labels),
        class_names=class_names,
        imagenet=len(class_names) == COUNT or max(labels, default=0) == COUNT - 1,
    )


class ParquetSource:
    """Encoded images out of row groups; each process keeps the one that it read last."""

    def __init__(self, groups: Sequence[tuple[str, int, int]], count: int) -> None:
        self._groups, self._count = tuple(groups), count
        self._starts = [first for _, _, first in self._groups]
        self._held: tuple[int, int, list[Any]] | None = None  # process id, group, rows

    def read(self, index: int) -> bytes:
        which = bisect.bisect_right(self._starts, index) - 1
        shard, group, first = self._groups[which]
        if self._held is None or self._held[:2] != (os.getpid(), which):
            with _import_pyarrow().ParquetFile(shard) as file:
                column = file.read_row_group(group, columns=["image"], use_threads=False)["image"]
            self._held = (os.getpid(), which, column.to_pylist())
        cell = self._held[2][index - first]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise IntegrityError(f"{shard}: row {index - first} of group {group} has no image")
        return content

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_held": None}


def _class_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """The class names that `datasets` stores in the schema, if any."""
    try:
        document = json.loads((metadata or {})[b"huggingface"])
        return tuple(document["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise StrzooError("reading parquet needs pyarrow: pip install 'strzoo[parquet]'") from None
    return pyarrow.parquet
