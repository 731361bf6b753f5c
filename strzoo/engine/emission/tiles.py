"""Loops over what is a thread's: tiles and their planes, or planes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

from strzoo.engine.emission.builder import Emitter, number


@contextmanager
def over_my_tiles(
    e: Emitter, aim: Callable[[ir.Value], None] | None = None
) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """(tile, plane, vectors of the tile), tile by tile; `aim(tile)` before a tile's planes.

    The row has the fields tiles, planes, tile, target_vectors. Two threads may share a tile.
    """
    planes, tiles, size = e.field("planes"), e.field("tiles"), e.field("tile")
    units = e.mul(tiles, planes)
    first = e.share(units, e.thread, e.threads)
    last = e.share(units, e.add(e.thread, 1), e.threads)
    stop = e.build.udiv(e.add(last, e.build.sub(planes, number(1))), planes)
    with e.loop(e.build.udiv(first, planes), stop) as tile:
        start = e.mul(tile, planes)
        low = e.largest_integer(e.build.sub(first, start), number(0))
        high = e.smallest_integer(e.build.sub(last, start), planes)
        rest = e.build.sub(e.field("target_vectors"), e.mul(tile, size))
        if aim is not None:
            aim(tile)
        with e.loop(low, high) as plane:
            yield tile, plane, e.smallest_integer(size, rest)


@contextmanager
def over_my_planes(e: Emitter) -> Iterator[ir.Value]:
    """This thread's share of the planes, whole."""
    planes = e.field("planes")
    start = e.share(planes, e.thread, e.threads)
    with e.loop(start, e.share(planes, e.add(e.thread, 1), e.threads)) as plane:
        yield plane


def tiled_field(e: Emitter, name: str, tile: ir.Value, plane: ir.Value) -> ir.Value:
    """The address of a plane's tile, by the fields `name`, `name`_plane and `name`_tile."""
    place = e.add(e.field(name), e.mul(tile, e.field(f"{name}_tile")))
    return e.at(e.arena, e.add(place, e.mul(plane, e.field(f"{name}_plane"))))
