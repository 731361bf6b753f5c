"""The 1000 ImageNet classes: WordNet ids, names, and the order of the 2012 development kit.

Facts, in imagenet_classes.csv beside this file: the ids in their sorted order (the order of the
networks' outputs), the id each class has in the development kit (1 to 1000, another order), and
the English names as torchvision lists them. Standard library only.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from strzoo.errors import UsageError

COUNT = 1000
_PATH = Path(__file__).resolve().parent / "imagenet_classes.csv"
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ImageNetClass:
    """`index` is the network's output (0 to 999), `devkit_id` the development kit's (1 to 1000)."""

    index: int
    wnid: str
    devkit_id: int
    name: str


@lru_cache(maxsize=1)
def list_classes() -> tuple[ImageNetClass, ...]:
    """All classes by index."""
    with open(_PATH, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return tuple(
        ImageNetClass(index, row["wnid"], int(row["devkit_id"]), row["name"])
        for index, row in enumerate(rows)
    )


@lru_cache(maxsize=1)
def index_by_wnid() -> Mapping[str, int]:
    """Network output by WordNet id."""
    return MappingProxyType({c.wnid: c.index for c in list_classes()})


@lru_cache(maxsize=1)
def index_by_devkit_id() -> Mapping[int, int]:
    """Network output by the development kit's class number."""
    return MappingProxyType({c.devkit_id: c.index for c in list_classes()})


def is_wnid(text: str) -> bool:
    """Whether `text` looks like a WordNet id: n and eight digits."""
    return _WNID.fullmatch(text) is not None


def find_index(wnid: str) -> int:
    """The network output of a WordNet id.

    Raises:
        UsageError: it is not one of the 1000 classes.
    """
    index = index_by_wnid().get(wnid)
    if index is None:
        raise UsageError(f"{wnid!r} is not one of the 1000 ImageNet classes")
    return index
