"""Lines of pixels and the tiles they are cut into: fetching what a window needs, and back.

A window reads over the ends of a tile. `TilePacker` copies what one tile of a plane needs to
scratch memory, `gather_line` and `scatter_line` the whole line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from strzoo.engine.emission.builder import BYTES, I64, Emitter, number


@dataclass(frozen=True)
class TiledPlanes:
    """Planes in the arena: the address of tile 0 of plane 0, and bytes from plane to plane and
    from tile to tile; `tile` and `vectors` count the vectors of a tile and of a line."""

    base: ir.Value
    plane: ir.Value
    tile_bytes: ir.Value
    tile: ir.Value
    vectors: ir.Value


class TilePacker:
    """Copies, plane by plane, the `count` vectors that start `first` vectors after a tile does.

    Where they lie is the same for every plane: `aim` writes it down once for a tile, in `table`
    (i64 per vector). Beyond the ends of the line there is `fill`.
    """

    def __init__(
        self, e: Emitter, source: TiledPlanes, count: int, first: ir.Value, table: ir.Value
    ) -> None:
        self.e, self.source, self.count = e, source, count
        self.first, self.table = first, table

    def aim(self, tile: ir.Value) -> None:
        e, source, build = self.e, self.source, self.e.build
        start = e.add(e.mul(tile, source.tile), self.first)
        last = build.sub(source.vectors, number(1))
        with e.loop(0, number(self.count)) as index:
            vector = e.largest_integer(e.add(start, index), number(0))
            vector = e.smallest_integer(vector, last)
            where = build.udiv(vector, source.tile)
            within = build.sub(vector, e.mul(where, source.tile))
            offset = e.add(e.mul(where, source.tile_bytes), e.mul(within, 4 * e.lanes))
            place = build.ptrtoint(e.at(source.base, offset), I64)
            e.store(place, self.table, e.mul(index, 8), align=8)
        # [outside_before, outside_after): the vectors that are on the line
        self.outside_before = e.largest_integer(build.neg(start), number(0))
        self.outside_before = e.smallest_integer(self.outside_before, number(self.count))
        behind = e.largest_integer(build.sub(source.vectors, start), number(0))
        self.outside_after = e.smallest_integer(behind, number(self.count))

    def pack(self, planes: ir.Value, first_plane: ir.Value, slab: ir.Value, fill: ir.Value) -> None:
        """Planes [first_plane, first_plane + planes) to `slab`, one after the other."""
        e, step = self.e, 4 * self.e.lanes
        with e.loop(0, planes) as index:
            offset = e.mul(e.add(first_plane, index), self.source.plane)
            here = e.at(slab, e.mul(index, self.count * step))
            for j in range(self.count):
                place = e.add(e.load(self.table, I64, 8 * j, align=8), offset)
                there = e.build.inttoptr(place, BYTES)
                e.store(e.load_vector(there), here, j * step)
            with e.loop(0, e.mul(self.outside_before, step), step) as at:
                e.store(fill, here, at)
            start = e.mul(self.outside_after, step)
            with e.loop(start, number(self.count * step), step) as at:
                e.store(fill, here, at)


def gather_line(
    e: Emitter,
    source: TiledPlanes,
    plane: ir.Value,
    line: ir.Value,
    before: ir.Value,
    after: ir.Value,
    fill: ir.Value,
) -> None:
    """A plane's whole line to `line`, with `before` and `after` bytes of `fill` around it."""
    step = 4 * e.lanes
    with e.loop(0, before, step) as at:
        e.store(fill, e.at(line, e.build.neg(before)), at)
    _over_tiles(e, source, plane, lambda there, at: e.store(e.load_vector(there), line, at))
    end = e.mul(source.vectors, step)
    with e.loop(end, e.add(end, after), step) as at:
        e.store(fill, line, at)


def scatter_line(e: Emitter, target: TiledPlanes, plane: ir.Value, line: ir.Value) -> None:
    """The line at `line` to a plane's tiles."""
    _over_tiles(e, target, plane, lambda there, at: e.store(e.load_vector(line, at), there))


def _over_tiles(
    e: Emitter,
    planes: TiledPlanes,
    plane: ir.Value,
    move: Callable[[ir.Value, ir.Value], None],
) -> None:
    """move(address in the arena, byte offset in the line) for every vector."""
    step = 4 * e.lanes
    start = e.at(planes.base, e.mul(plane, planes.plane))
    tiles = e.build.udiv(e.add(planes.vectors, e.build.sub(planes.tile, number(1))), planes.tile)
    with e.loop(0, tiles) as tile:
        there = e.at(start, e.mul(tile, planes.tile_bytes))
        first = e.mul(tile, planes.tile)
        count = e.smallest_integer(planes.tile, e.build.sub(planes.vectors, first))
        with e.loop(0, e.mul(count, step), step) as at:
            move(e.at(there, at), e.add(e.mul(first, step), at))
