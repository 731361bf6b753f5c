"""Loops over what is a thread's: tiles and their planes, or planes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from strzoo.engine.codegen.builder import Emitter, number


@contextmanager
def share_of_tiles(e: Emitter) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """(tile, first plane, end of the planes) for each tile that is this thread's, whole or in part.

    The row has the fields planes and tiles. Two threads may share a tile.
    """
    planes, tiles = e.field("planes"), e.field("tiles")
    units = e.mul(tiles, planes)
    first = e.share(units, e.thread, e.threads)
    last = e.share(units, e.add(e.thread, 1), e.threads)
    stop = e.build.udiv(e.add(last, e.build.sub(planes, number(1))), planes)
    with e.loop(e.build.udiv(first, planes), stop) as tile:
        start = e.mul(tile, planes)
        low = e.largest_integer(e.build.sub(first, start), number(0))
        yield tile, low, e.smallest_integer(e.build.sub(last, start), planes)


@contextmanager
def over_my_tiles(e: Emitter) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """(tile, plane, vectors of the tile), tile by tile.

    The row has the fields tile and target_vectors as well.
    """
    size = e.field("tile")
    with share_of_tiles(e) as (tile, low, high):
        rest = e.build.sub(e.field("target_vectors"), e.mul(tile, size))
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
    place = e.add(e.field(name), tile_start(e, name, tile))
    return e.at(e.arena, e.add(place, e.mul(plane, e.field(f"{name}_plane"))))


def tile_start(e: Emitter, name: str, tile: ir.Value) -> ir.Value:
    """Bytes from a map's first tile to `tile`, by the fields piece_tiles, pitch and `name`_tile."""
    size = e.field("piece_tiles")
    piece = e.build.udiv(tile, size)
    within = e.build.sub(tile, e.mul(piece, size))
    return e.add(e.mul(piece, e.field("pitch")), e.mul(within, e.field(f"{name}_tile")))
