"""Where values live: maps cut into regions, one for each lane of a vector, in one arena.

A map is a set of planes (channels). Each plane is cut into a grid of equal regions, as many as a
vector has lanes, and a vector holds the pixel at one place of every region: neighbouring pixels
are in neighbouring vectors, in the same lane. A window that moves by a pixel moves by whole
vectors, so that every load is aligned. Only where it reaches over a region's edge are the
neighbour's pixels needed, a vector whose lanes have moved by one region.

A pixel may stand for several images that go together (`images`): their values are lanes side by
side, and there are fewer regions. Regions that reach over the edge of the map hold zeros there if
a window reads them.

The vectors of a plane, row by row of the region, are cut into tiles of a few, and memory holds
tile after tile, in each all planes:

    [tile][channel][vectors of the tile]

What a kernel reads and writes for one tile is then one stretch of memory, whatever the channel:
the processor fetches it ahead, it fills the cache evenly, and threads that work on different tiles
never touch each other's lines.

The arena has a piece for each thread, all alike, and a map's tiles are dealt out to the pieces,
as many to each. So a thread writes where only it has written before, whatever maps have been there:
a line that another core holds takes as long as twenty that it does not, if that core has another
cache.

A map that a strided window reads is kept once more, split by phase, where its regions do not match
the output's: the pixels whose row and column leave the same remainders form planes of their own,
in which the window moves by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 16  # floats in a cache line
SPARE = 1.05  # of the vectors, for regions that save a copy


@dataclass(frozen=True)
class Regions:
    """`grid` regions (down, across) of `block` pixels (rows, columns) each."""

    grid: tuple[int, int]
    block: tuple[int, int]

    @property
    def vectors(self) -> int:
        return self.block[0] * self.block[1]

    def covers(self, height: int, width: int) -> bool:
        return self.grid[0] * self.block[0] >= height and self.grid[1] * self.block[1] >= width

    def shrunk(self, strides: tuple[int, int]) -> Regions | None:
        """Those of which a strided window over these makes one pixel each of its outputs; None if
        the strides do not divide the block."""
        if self.block[0] % strides[0] or self.block[1] % strides[1]:
            return None
        return Regions(self.grid, (self.block[0] // strides[0], self.block[1] // strides[1]))


@dataclass(frozen=True)
class Frame:
    """The geometry of a map. `tile` counts vectors; 0 means a vector of features: planes of one
    pixel with nothing between them. `phases` are those kept of each channel, `pieces` those of the
    arena."""

    height: int
    width: int
    regions: Regions
    images: int
    lanes: int
    tile: int
    phases: int = 1
    pieces: int = 1

    @property
    def vectors(self) -> int:
        return self.regions.vectors

    @property
    def tiles(self) -> int:
        return -(-self.vectors // self.tile)

    @property
    def piece_tiles(self) -> int:
        """Tiles in a piece of the arena."""
        return -(-self.tiles // self.pieces)

    @property
    def plane(self) -> int:
        """Bytes from plane to plane within a tile."""
        return 4 * self.lanes * self.tile if self.tile else 4 * self.images

    @property
    def columns(self) -> int:
        """Vectors of a tile that are side by side in the region."""
        return min(self.tile, self.regions.block[1])

    def floats(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Where pixels are in the plane's vectors, counted in floats."""
        (high, wide), (_, across) = self.regions.block, self.regions.grid
        region = rows // high * across + columns // wide
        return (rows % high * wide + columns % wide) * self.lanes + region * self.images

    def bytes(self, floats: np.ndarray, tile_bytes: int, pitch: int) -> np.ndarray:
        """Where they are in memory, tiles `tile_bytes` apart, pieces `pitch`."""
        vector, lane = np.divmod(floats, self.lanes)
        tile, within = np.divmod(vector, self.tile)
        piece, tile = np.divmod(tile, self.piece_tiles)
        return piece * pitch + tile * tile_bytes + 4 * (within * self.lanes + lane)


@dataclass
class Map:
    """A value in the arena, or a range of the channels of a larger one.

    While a plan is made, the needs of its readers gather here: `clean`, where a window reads what
    is no pixel, which must hold `fill`. `frame`, `place` (floats from the start of the arena) and
    `pitch` (bytes from piece to piece of the arena) come last.
    """

    name: str
    channels: int
    height: int
    width: int
    clean: bool = False
    fill: float = 0.0
    phases: int = 1
    packed: bool = False  # a vector of features
    inside: Map | None = None
    channel: int = 0  # of `inside`, the first
    frame: Frame | None = None
    place: int = -1
    pitch: int = 0
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

    def bytes(self, floats: np.ndarray) -> np.ndarray:
        """From the first pixel of a plane to others of it; see `Frame.floats`."""
        return self.geometry.bytes(floats, self.tile_bytes, self.root.pitch)

    @property
    def address(self) -> int:
        """Arena byte offset of the first pixel of the first channel."""
        return 4 * self.root.place + self.first_channel * self.geometry.phases * self.plane

    @property
    def span(self) -> int:
        """Floats that the map takes in each piece; of features, which are in the first, whole
        vectors are written."""
        frame = self.geometry
        if self.packed:
            return -(-self.channels // ALIGNMENT) * ALIGNMENT * frame.images
        return self.channels * frame.phases * frame.piece_tiles * frame.tile * frame.lanes


class SharedFrames:
    """Maps that one kernel runs over in step must have the same regions and the same tiles."""

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


def choose_regions(
    height: int,
    width: int,
    count: int,
    *,
    strided: bool = False,
    wanted: Iterable[Regions] = (),
) -> Regions:
    """`count` regions, a power of two, that cover maps of that size.

    Few vectors come first, then `wanted` regions, for which a strided window needs no copy, then
    those whose blocks can be halved for the next one (`strided`), then short edges.
    """
    options = []
    for down in (1 << power for power in range(count.bit_length())):
        grid = (down, count // down)
        options.append(Regions(grid, (-(-height // grid[0]), -(-width // grid[1]))))
    fewest = min(regions.vectors for regions in options)
    known = {
        regions
        for regions in wanted
        if regions.covers(height, width)
        and regions.grid[0] * regions.grid[1] == count
        and regions.vectors <= SPARE * fewest
    }

    def cost(regions: Regions) -> tuple[float, ...]:
        high, wide = regions.block
        odd = strided and (high % 2 + wide % 2)
        preferred = regions in known
        vectors = fewest if preferred else regions.vectors
        return (vectors, not preferred, odd, (high + 2) * (wide + 2), high, regions.grid[0])

    return min([*options, *known], key=cost)


def allocate(maps: list[Map], start: int) -> int:
    """Give every map a place in the first piece, from `start` floats on; where the next float would
    go.

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
