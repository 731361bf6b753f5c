"""Buffers: blocked storage of feature maps in one arena, and features of vectors.

A feature map is a set of planes (channels). Each plane is cut into a grid of equal blocks, one for
each lane of a vector. A vector holds the pixel at one place of every block: neighbouring pixels are
in neighbouring vectors, in the same lane. A window that moves by one pixel moves by whole vectors,
so every load is aligned. Where a window reaches over the edge of a block, it needs the neighbouring
block's pixels: the same vectors with their lanes moved by one block.

A pixel may hold several images that go together (`images`): their values are in lanes next to each
other, and there are fewer blocks. Blocks that reach over the edge of the map hold zeros there if
a window reads them.

The vectors of a plane, row by row of the block, are cut into tiles of a few vectors. Memory holds
tile after tile, in each all planes:

    [tile][channel][vectors of the tile]

What a kernel reads and writes for one tile is one stretch of memory for all channels. The processor
prefetches it, it fills the cache evenly, and threads that work on different tiles never share a
cache line.

The arena has one piece per thread, all of one size, and every piece holds an equal share of a
buffer's tiles. A thread writes only where it has written before, whatever buffers were there. This
matters because a cache line that another core has modified takes about twenty times as long to
write where the cores share no cache.

The input of a strided window is stored a second time, split by phase, where its blocks do not match
the output's: the pixels whose row and column leave the same remainders form planes of their own, in
which the window moves by one pixel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from strzoo.engine.ir.classes import Classes

ALIGNMENT = 16  # floats in a cache line
SPARE = 1.05  # more vectors than the fewest are accepted where that saves a copy


@dataclass(frozen=True)
class Blocking:
    """A plane cut into `grid` blocks (down, across) of `block` pixels (rows, columns) each."""

    grid: tuple[int, int]
    block: tuple[int, int]

    @property
    def vectors(self) -> int:
        return self.block[0] * self.block[1]

    def covers(self, height: int, width: int) -> bool:
        return self.grid[0] * self.block[0] >= height and self.grid[1] * self.block[1] >= width

    def shrunk(self, strides: tuple[int, int]) -> Blocking | None:
        """The blocking of the output of a window with `strides` whose input has this blocking;
        None if the strides do not divide the block."""
        if self.block[0] % strides[0] or self.block[1] % strides[1]:
            return None
        return Blocking(self.grid, (self.block[0] // strides[0], self.block[1] // strides[1]))


@dataclass(frozen=True)
class Layout:
    """How the planes of a buffer lie in memory.

    Args:
        height, width: pixels of a plane.
        blocking: of a plane.
        images: that go together, in lanes next to each other.
        lanes: numbers of a vector.
        tile: vectors of a tile; 0 for features: planes of one pixel with nothing between them.
        phases: planes stored for each channel.
        pieces: of the arena.
        item: bytes of a number: 4 for fp32, 2 for 16-bit fixed point.
    """

    height: int
    width: int
    blocking: Blocking
    images: int
    lanes: int
    tile: int
    phases: int = 1
    pieces: int = 1
    item: int = 4

    @property
    def vector(self) -> int:
        """Bytes of a vector."""
        return self.item * self.lanes

    @property
    def vectors(self) -> int:
        return self.blocking.vectors

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
        return self.vector * self.tile if self.tile else 4 * self.images

    @property
    def columns(self) -> int:
        """Vectors of a tile that are next to each other in a row of the block."""
        return min(self.tile, self.blocking.block[1])

    def places(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Places of pixels in the plane's vectors, counted in numbers."""
        (high, wide), (_, across) = self.blocking.block, self.blocking.grid
        block = rows // high * across + columns // wide
        return (rows % high * wide + columns % wide) * self.lanes + block * self.images

    def bytes(self, places: np.ndarray, tile_bytes: int, pitch: int) -> np.ndarray:
        """Their places in memory, with tiles `tile_bytes` apart and pieces `pitch` apart."""
        vector, lane = np.divmod(places, self.lanes)
        tile, within = np.divmod(vector, self.tile)
        piece, tile = np.divmod(tile, self.piece_tiles)
        return piece * pitch + tile * tile_bytes + self.item * (within * self.lanes + lane)


@dataclass
class Buffer:
    """A value in the arena, or a range of the channels of a larger buffer.

    Args:
        name: of the value.
        channels, height, width: of one image.
        clean: whether a window reads places that are no pixels, which must hold `fill`.
        phases: planes stored for each channel.
        packed: whether it is a vector of features.
        fixed: whether it holds 16-bit fixed point.
        quads: whether it holds numbers of 8 bits, four channels in a word; `channels` counts words.
        zero: the number of 8 bits that stands for 0.
        inside: the buffer that this one is a part of, from its channel `channel` on.
        own_layout: set by `lay_out` for buffers that are not inside another.
        place: floats from the start of the arena to the buffer; set by `plan_memory`.
        pitch: bytes from piece to piece of the arena; set by `plan_memory`.
        born, dies: the first and the last instruction that uses it; set by `plan_memory`.
    """

    name: str
    channels: int
    height: int
    width: int
    clean: bool = False
    fill: float = 0.0
    phases: int = 1
    packed: bool = False
    fixed: bool = False
    quads: bool = False
    zero: int = 0
    inside: Buffer | None = None
    channel: int = 0
    own_layout: Layout | None = None
    place: int = -1
    pitch: int = 0
    born: int = -1
    dies: int = -1

    @property
    def root(self) -> Buffer:
        return self if self.inside is None else self.inside.root

    @property
    def first_channel(self) -> int:
        return 0 if self.inside is None else self.channel + self.inside.first_channel

    @property
    def must_be_clean(self) -> bool:
        return self.clean or self.root.clean

    @property
    def layout(self) -> Layout:
        layout = self.root.own_layout
        assert layout is not None, f"{self.name} has no layout yet"
        return layout

    @property
    def plane(self) -> int:
        """Bytes from plane to plane within a tile."""
        return self.layout.plane

    @property
    def tile_bytes(self) -> int:
        """Bytes from tile to tile: all planes of the buffer that this one is a part of."""
        return self.root.channels * self.layout.phases * self.plane

    def bytes(self, places: np.ndarray) -> np.ndarray:
        """Bytes from the first pixel of a plane to others of it; see `Layout.places`."""
        return self.layout.bytes(places, self.tile_bytes, self.root.pitch)

    @property
    def address(self) -> int:
        """Arena byte offset of the first pixel of the first channel."""
        return 4 * self.root.place + self.first_channel * self.layout.phases * self.plane

    @property
    def span(self) -> int:
        """Floats that the buffer takes in each piece. Features are in the first piece and take
        whole vectors, because kernels write whole vectors."""
        layout = self.layout
        if self.packed:
            return -(-self.channels // ALIGNMENT) * ALIGNMENT * layout.images
        tile = layout.tile * layout.vector // 4
        return self.channels * layout.phases * layout.piece_tiles * tile


class SharedLayouts:
    """Classes of buffers that one kernel walks over together, with one blocking and one tile."""

    def __init__(self) -> None:
        self._classes: Classes[int] = Classes()

    def join(self, *buffers: Buffer) -> None:
        for buffer in buffers[1:]:
            self._classes.join(id(buffer.root), id(buffers[0].root))

    def classes(self, buffers: list[Buffer]) -> list[list[Buffer]]:
        """The buffers of feature maps that are not inside another, by class."""
        found: dict[int, list[Buffer]] = defaultdict(list)
        for buffer in buffers:
            if buffer.inside is None and not buffer.packed:
                found[self._classes.find(id(buffer.root))].append(buffer)
        return list(found.values())


def choose_blocking(
    height: int,
    width: int,
    count: int,
    *,
    strided: bool = False,
    wanted: Iterable[Blocking] = (),
) -> Blocking:
    """The blocking for feature maps of that size, with `count` blocks, a power of two.

    The order of preference: few vectors, then one of `wanted`, for which a strided window needs no
    copy, then blocks that can be halved for the next window (`strided`), then short edges.
    """
    options = []
    for down in (1 << power for power in range(count.bit_length())):
        grid = (down, count // down)
        options.append(Blocking(grid, (-(-height // grid[0]), -(-width // grid[1]))))
    fewest = min(blocking.vectors for blocking in options)
    known = {
        blocking
        for blocking in wanted
        if blocking.covers(height, width)
        and blocking.grid[0] * blocking.grid[1] == count
        and blocking.vectors <= SPARE * fewest
    }

    def cost(blocking: Blocking) -> tuple[float, ...]:
        high, wide = blocking.block
        odd = strided and (high % 2 + wide % 2)
        preferred = blocking in known
        vectors = fewest if preferred else blocking.vectors
        return (vectors, not preferred, odd, (high + 2) * (wide + 2), high, blocking.grid[0])

    return min([*options, *known], key=cost)
