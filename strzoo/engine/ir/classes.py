"""Classes of things that belong together: joined pair by pair, asked for by a member."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Classes(Generic[Key]):
    """A partition, as a forest. What was never named is a class of its own."""

    def __init__(self) -> None:
        self._parent: dict[Key, Key] = {}

    def find(self, key: Key) -> Key:
        """The member that stands for the class of `key`."""
        while (parent := self._parent.get(key, key)) != key:
            key = parent
        return key

    def join(self, one: Key, other: Key) -> None:
        """Make one class of two; the member that stands for `other`'s stands for both."""
        self._parent[self.find(one)] = self.find(other)
