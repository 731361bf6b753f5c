"""The record that layout and memory planning fill in."""

from __future__ import annotations

from dataclasses import dataclass, field

from strzoo.engine.layout.buffers import Buffer
from strzoo.engine.layout.taps import Taps


@dataclass
class MemoryPlan:
    """The buffers of a graph.

    Args:
        images: that go together.
        lanes: floats of a vector.
        pieces: of the arena.
        values: the buffer of each value.
        copies: by value and kind, the copies that strided or padded windows read.
        sources: by layer with a window, the buffer that it reads.
        taps: by layer with a window, what the window reads.
        positive: values without negative numbers.
        groups: by id of a buffer, the number of its class of buffers with tiles in common.
        whole_rows: numbers of the classes whose tiles must be rows of a block.
        size: of the arena, in floats.
    """

    images: int
    lanes: int
    pieces: int = 1
    values: dict[str, Buffer] = field(default_factory=dict)
    copies: dict[tuple[str, tuple[object, ...]], Buffer] = field(default_factory=dict)
    sources: dict[str, Buffer] = field(default_factory=dict)
    taps: dict[str, Taps] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)
    groups: dict[int, int] = field(default_factory=dict)
    whole_rows: set[int] = field(default_factory=set)
    size: int = 0

    @property
    def buffers(self) -> list[Buffer]:
        return [*self.values.values(), *self.copies.values()]
