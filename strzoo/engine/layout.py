"""Where values live: planes cut into tiles, in one arena.

A map is a set of planes (channels); a plane is one long line: row after row, `pitch` pixels apart,
a little more than the width, and a pixel is the value of as many images as go together (`images`).
The gap between rows holds zeros, so that a window that reaches over the edge reads zeros and a
kernel can run over row ends as if there were none.

The line is cut into tiles of a few vectors, and memory holds tile after tile, in each all planes:

    [tile][channel][vectors of the tile]

What a kernel reads and writes for one tile is then one stretch of memory, whatever the channel:
the processor fetches it ahead, it fills the cache evenly, and threads that work on different tiles
never touch each other's lines.

A map that a strided window reads is kept once more, split by phase: the pixels whose row and
column leave the same remainders form planes of their own, in which the window moves by one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

ALIGNMENT = 16  # floats in a cache line


@dataclass(frozen=True)
class Frame:
    """The geometry of a map. `tile` counts vectors; 0 means a vector of features: planes of one
    pixel with nothing between them. `phases` are those kept of each channel."""

    height: int
    width: int
    pitch: int
    images: int
    lanes: int
    tile: int
    phases: int = 1

    @property
    def row(self) -> int:
        """Bytes from row to row of the line."""
        return 4 * self.pitch * self.images

    @property
    def vectors(self) -> int:
        """From the first pixel to the last."""
        return flat_vectors(self.height, self.width, self.pitch, self.images, self.lanes)

    @property
    def tiles(self) -> int:
        return -(-self.vectors // self.tile)

    @property
    def plane(self) -> int:
        """Bytes from plane to plane within a tile."""
        return 4 * self.lanes * self.tile if self.tile else 4 * self.images


def flat_vectors(height: int, width: int, pitch: int, images: int, lanes: int) -> int:
    """Vectors from the first pixel of a plane to the last of height x width ones."""
    return -(-((height - 1) * pitch + width) * images // lanes)


@dataclass
class Map:
    """A value in the arena, or a range of the channels of a larger one.

    While a plan is made, the needs of its readers gather here: `reach` is how many pixels a window
    goes over each edge (top, left, bottom, right). `frame` and `place` (floats from the start of
    the arena) come last.
    """

    name: str
    channels: int
    height: int
    width: int
    reach: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    clean: bool = False  # the gap between rows must hold zeros (`fill`)
    fill: float = 0.0
    phases: int = 1
    packed: bool = False  # a vector of features
    inside: Map | None = None
    channel: int = 0  # of `inside`, the first
    frame: Frame | None = None
    place: int = -1
    born: int = -1
    dies: int = -1

    @property
    def root(self) -> Map:
        return self if self.inside is None else self.inside.root

    @property
    def first_channel(self) -> int:
        return 0 if self.inside is None else self.channel + self.inside.first_channel

    @property
    def must_be_clean(self) -> bool:
        return self.clean or self.root.clean

    def need(self, top: int, left: int, bottom: int, right: int) -> None:
        """A window reads what is no pixel, so many pixels beyond the edges."""
        root = self.root
        root.clean = True
        wanted = (top, left, bottom, right)
        root.reach = [max(a, b) for a, b in zip(root.reach, wanted, strict=True)]

    @property
    def geometry(self) -> Frame:
        frame = self.root.frame
        assert frame is not None, f"{self.name} has no place yet"
        return frame

    @property
    def plane(self) -> int:
        """Bytes from plane to plane within a tile."""
        return self.geometry.plane

    @property
    def tile_bytes(self) -> int:
        """From tile to tile: all planes of the memory that the map is part of."""
        return self.root.channels * self.geometry.phases * self.plane

    @property
    def address(self) -> int:
        """Arena byte offset of the first pixel of the first channel."""
        return 4 * self.root.place + self.first_channel * self.geometry.phases * self.plane

    @property
    def span(self) -> int:
        """Floats that the map takes; of features, whole vectors are written."""
        frame = self.geometry
        if self.packed:
            return -(-self.channels // ALIGNMENT) * ALIGNMENT * frame.images
        return self.channels * frame.phases * frame.tiles * frame.tile * frame.lanes


class Pitches:
    """Maps that one kernel runs over in step must have the same pitch and the same tiles."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def _find(self, map_: Map) -> int:
        key = id(map_.root)
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def join(self, *maps: Map) -> None:
        keys = [self._find(map_) for map_ in maps]
        for key in keys[1:]:
            self._parent[key] = keys[0]

    def classes(self, maps: list[Map]) -> list[list[Map]]:
        """The maps that own their memory and are no vectors, those in step together."""
        found: dict[int, list[Map]] = defaultdict(list)
        for map_ in maps:
            if map_.inside is None and not map_.packed:
                found[self._find(map_)].append(map_)
        return list(found.values())


def choose_pitch(members: list[Map], images: int, lanes: int) -> int:
    """The width and the gap; rows start on vectors if that costs no vector more."""
    pitch = max(m.width + max(m.reach[1], m.reach[3]) for m in members)
    height = max(m.height for m in members)
    vectors = -(-height * pitch * images // lanes)
    aligned = pitch
    while aligned * images % lanes:
        aligned += 1
    return aligned if -(-height * aligned * images // lanes) <= vectors else pitch


def allocate(maps: list[Map], start: int) -> int:
    """Give every map a place, from `start` floats on; where the next float would go.

    Maps that do not live at the same time share room: what was just read is still in the cache
    when the next map is written there. The largest choose first.
    """
    placed: list[Map] = []
    end = start
    for map_ in sorted(maps, key=lambda m: (-m.span, m.born)):
        others = sorted(
            (m for m in placed if m.born <= map_.dies and map_.born <= m.dies),
            key=lambda m: m.place,
        )
        place = start
        for other in others:
            if place + map_.span <= other.place:
                break
            place = max(place, -(-(other.place + other.span) // ALIGNMENT) * ALIGNMENT)
        map_.place = place
        placed.append(map_)
        end = max(end, place + map_.span)
    return end
