"""WebDataset shards: tar archives in which the files of one sample share their name up to its
first dot (`0001.jpg`, `0001.cls`, `0001.json`). Read in place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strzoo.borders import reading
from strzoo.data.imagenet_classes import COUNT, find_index, is_wnid
from strzoo.data.samples import Samples, single_labels
from strzoo.data.trees import IMAGE_SUFFIXES, TarTree
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

_NUMBERS = ("cls", "index")  # how files end that hold a sample's label and nothing else
_LABELS = ("label", "cls", "class_index", "class_id", "target")  # in a sample's JSON
_PEEK = 64  # members that tell a shard from another archive
_LONGEST = 1 << 20  # bytes of a sample's .cls or .json


def is_webdataset(path: Path, limits: Limits | None = None) -> bool:
    """Whether a tar archive holds labels beside its images."""
    tree = TarTree(path, limits, all_files=True, most=_PEEK)
    kinds = {name.lower().rsplit(".", 1)[-1] for name in tree.images}
    images = any(f".{kind}" in IMAGE_SUFFIXES for kind in kinds)
    return images and bool(kinds & {*_NUMBERS, "json"})


def read_webdataset(
    shards: Sequence[Path], *, split: str = "", limits: Limits | None = None
) -> Samples:
    """The samples of the shards, one after the other.

    Args:
        split: what the shards are, for the description.

    Raises:
        StrzooError: a shard cannot be read.
        IntegrityError: a shard is damaged, or a sample has several images or no label.
    """
    limits = limits or Limits.from_env()
    trees = [TarTree(path, limits, all_files=True) for path in shards]
    places: list[tuple[int, str]] = []
    labels: list[int] = []
    wnids = 0
    for number, tree in enumerate(trees):
        samples: dict[str, dict[str, str]] = {}
        for name in tree.images:
            folder, slash, leaf = name.rpartition("/")
            key, _, kind = leaf.partition(".")
            samples.setdefault(folder + slash + key, {})[kind.lower()] = name
        for key, files in samples.items():
            images = [n for kind, n in files.items() if f".{kind.split('.')[-1]}" in IMAGE_SUFFIXES]
            if not images:
                continue
            if len(images) > 1:
                raise IntegrityError(
                    f"{tree.location}: sample {key} has {len(images)} images; one is expected"
                )
            label, is_text = _read_label(tree, key, files)
            places.append((number, images[0]))
            labels.append(label)
            wnids += is_text
    names = tuple(f"{Path(trees[n].location).name}/{name}" for n, name in places)
    count = f"{len(shards)} shard{'s' if len(shards) > 1 else ''}"
    return Samples(
        f"WebDataset ({count}{f', {split}' if split else ''})",
        str(shards[0].parent if len(shards) > 1 else shards[0]),
        _ShardSource(trees, places),
        names,
        single_labels(labels),
        imagenet=wnids > 0 or max(labels, default=0) == COUNT - 1,
        notes=tuple(dict.fromkeys(note for tree in trees for note in tree.notes)),
    )


def _read_label(tree: TarTree, key: str, files: dict[str, str]) -> tuple[int, bool]:
    """The label of a sample, and whether it is given as a wnid."""
    with reading(tree.location, "a WebDataset shard") as place:
        place.at = f"sample {key}"
        found: Any = None
        plain = [name for kind, name in files.items() if kind.split(".")[-1] in _NUMBERS]
        if len(plain) == 1:  # "target.cls", too
            found = _read_small(tree, plain[0]).strip()
        elif "json" in files:
            document = json.loads(_read_small(tree, files["json"]))
            given = {str(document[n]) for n in _LABELS if n in document}
            found = given.pop() if len(given) == 1 else None
        if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 10:
            return int(found), False
        if isinstance(found, str) and is_wnid(found):
            return find_index(found), True
    raise IntegrityError(
        f"{tree.location}: sample {key} has no label: expected a class number or a wnid in its "
        f".cls, or in its .json as {', '.join(_LABELS)}"
    )


def _read_small(tree: TarTree, name: str) -> str:
    content = tree.read(name)
    if len(content) > _LONGEST:
        raise IntegrityError(f"{tree.location}: {name} has {len(content):,} bytes, no label has")
    return content.decode("utf-8-sig")


class _ShardSource:
    """Members of several archives as one source."""

    def __init__(self, trees: Sequence[TarTree], places: Sequence[tuple[int, str]]) -> None:
        self._trees, self._places = tuple(trees), tuple(places)

    def read(self, index: int) -> bytes:
        shard, name = self._places[index]
        return self._trees[shard].read(name)
