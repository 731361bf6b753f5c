"""What is known of a graph's maps while a plan is made; see `lowering`."""

from __future__ import annotations

from dataclasses import dataclass, field

from strzoo.engine.layout.buffers import Map
from strzoo.engine.layout.taps import Taps


@dataclass
class Placement:
    """The maps of a graph: by value, and the copies that strided or padded windows read.

    `copies` maps (value, kind of copy) to the copy; `sources` a windowed layer to the map it
    reads. `groups` numbers the sets of maps (by identity) that have their tiles in common, and
    `whole_rows` holds the numbers of those whose tiles are rows of a region. `size` is that of the
    arena, in floats.
    """

    images: int
    lanes: int
    values: dict[str, Map] = field(default_factory=dict)
    copies: dict[tuple[str, tuple[object, ...]], Map] = field(default_factory=dict)
    sources: dict[str, Map] = field(default_factory=dict)
    taps: dict[str, Taps] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)
    groups: dict[int, int] = field(default_factory=dict)
    whole_rows: set[int] = field(default_factory=set)
    size: int = 0

    @property
    def maps(self) -> list[Map]:
        return [*self.values.values(), *self.copies.values()]
