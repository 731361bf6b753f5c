"""YAML from outside: plain values only, no key twice, and no more than an honest file holds.

The parser takes a second for 100 kB, and a few aliases of aliases stand for more values than any
memory holds: text and values are counted before they are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from strzoo.borders import read_text, reading
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

_COST = 128  # times as much of the limit of text as other formats
_MOST_VALUES = 100_000
_LARGEST = 1 << 63  # of whole numbers


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, and numbers that no computer counts with."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise IntegrityError(f"{str(key)[:60]!r} appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) >= _LARGEST:
            raise IntegrityError(f"the whole number {node.value[:30]}... is too large")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path, kind: str) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Args:
        path: the file.
        kind: what it should be, with its article.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: it is larger than the limits allow, not YAML, no mapping, gives a key twice,
            or holds itself.
    """
    limits = Limits.from_env()
    text = read_text(path, kind, limits)
    limits.check("text", _COST * len(text), f"{path} (YAML counts {_COST} times)")
    with reading(path, kind):
        try:
            values = parse_yaml(text)
        except IntegrityError as error:
            raise IntegrityError(f"{path} is not {kind}: {error}") from None
    if not isinstance(values, dict):
        raise IntegrityError(f"{path} holds no mapping of keys to values")
    return values


def parse_yaml(text: str) -> Any:
    """The value that `text` is.

    Raises:
        IntegrityError: a key is given twice, a value holds itself, or there are too many.
        yaml.YAMLError, ValueError, RecursionError: it is not YAML.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_VALUES:
            raise IntegrityError(f"its aliases stand for more than {_MOST_VALUES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The values of a node, those that aliases repeat counted each time."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if known[id(node)] == 0:
            raise IntegrityError("a value holds itself")
        return known[id(node)]
    known[id(node)] = 0  # until it is known: whoever meets it meanwhile holds itself
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in parts for part in pair]
    known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]
