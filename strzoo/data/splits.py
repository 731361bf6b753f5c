"""Which part of a data set a file belongs to, by its name: training, validation or test.

Names are those that people and the hub's loaders use. Training images are never evaluated
unless they are asked for by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from strzoo.data.trees import is_junk
from strzoo.errors import UsageError

# The names of each split; the first is ours. The same words as Hugging Face's loaders know.
_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "validate", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_CANONICAL = {name: split for split, names in _NAMES.items() for name in names}
_WORDS = re.compile(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])")
_NUMBERS = re.compile(r"(\d+|of|part|shard|file|data|[0-9a-f]{8,})")
_PLAIN = ("data", "default", "parquet", "shards")  # folders that name no configuration
_DEEPEST = 4
_MOST_FOLDERS = 64  # more are classes, not splits or configurations


def canonical_split(name: str) -> str:
    """The common name of a split: "validation" for "val" or "dev"; an unknown one as it is."""
    return _CANONICAL.get(name.lower(), name)


def find_split(path: str) -> str:
    """The split of a file by its name, else by the nearest folder that has one.

    Args:
        path: relative to the data set's root, with `/` between its parts.

    Returns:
        "train", "validation", "test", or what else its name says, without numbers ("holdout" of
        "holdout-00000-of-00002.parquet"); "" if it says nothing.
    """
    *folders, leaf = path.split("/")
    stem = leaf.rsplit(".", 1)[0]
    for text in (stem, *reversed(folders)):
        words = [word for word in _WORDS.split(text.lower()) if word]
        known = {_CANONICAL[word] for word in words if word in _CANONICAL}
        if len(known) == 1:
            return known.pop()
        if known:  # "train-test" may be either
            return text
    words = [w for w in _WORDS.split(stem.lower()) if w and not _NUMBERS.fullmatch(w)]
    return "-".join(words)


def choose_split(
    files: Sequence[str], split: str | None, where: Path, *, kind: str = "shards"
) -> tuple[str, list[str]]:
    """The files to evaluate on, and the name of their split ("" if nothing names one).

    Args:
        files: paths relative to `where`, with `/` between their parts.
        split: asked for by the user; else validation, else test.

    Raises:
        UsageError: that split is not there, or none that is there is known to be for evaluation:
            `--split` must choose.
    """
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        groups.setdefault(find_split(file), []).append(file)
    found = ", ".join(name or "(no name)" for name in sorted(groups))
    if split is not None:
        if (wanted := canonical_split(split)) not in groups:
            raise UsageError(f"{where} has no {kind} of the split {split!r}; it has {found}")
        return wanted, groups[wanted]
    for known in ("validation", "test"):
        if known in groups:
            return known, groups[known]
    if list(groups) == [""]:
        return "", groups[""]
    raise UsageError(
        f"{where} has {kind} of the splits {found}; none is known to be for evaluation: choose one "
        "with --split"
    )


def list_shards(folder: Path, suffix: str) -> list[str]:
    """The shards in `folder`, or in folders of splits and of one configuration below it.

    Args:
        suffix: ".parquet" or ".tar".

    Returns:
        Paths relative to `folder`, sorted. Empty where class folders lie: those are not searched.

    Raises:
        UsageError: there are several configurations; they are listed.
    """
    found: list[str] = []
    level = [""]
    for _ in range(_DEEPEST):
        inner: list[str] = []
        for prefix in level:
            entries = _list_entries(folder / prefix)
            found += [f"{prefix}{n}" for n, is_folder in entries if not is_folder
                      and n.lower().endswith(suffix)]  # fmt: skip
            inner += [f"{prefix}{name}/" for name, is_folder in entries if is_folder]
        if len(inner) > _MOST_FOLDERS:
            break
        level = inner
    configurations: dict[str, list[str]] = {}
    for path in sorted(found):
        parts = [p for p in path.split("/")[:-1] if p.lower() not in _PLAIN and not _is_split(p)]
        configurations.setdefault("/".join(parts), []).append(path)
    if len(configurations) > 1 and "" not in configurations:
        named = ", ".join(sorted(configurations)[:8])
        raise UsageError(f"{folder} holds several configurations ({named}); give the folder of one")
    return configurations.get("", next(iter(configurations.values()), []))


def _list_entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, and whether they are folders; leftovers and what cannot be listed not."""
    try:
        with os.scandir(folder) as entries:
            return [(e.name, e.is_dir()) for e in entries if not is_junk(e.name)]
    except OSError:
        return []


def _is_split(folder: str) -> bool:
    words = [word for word in _WORDS.split(folder.lower()) if word]
    return any(word in _CANONICAL for word in words)
