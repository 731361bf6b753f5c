"""Loops over the given units of tiles and planes, and the extent of what they touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from strzoo.engine.codegen import operands as op
from strzoo.engine.codegen.builder import Emitter, number


def whole_tiles(v: op.Values) -> int:
    """The tiles that `target_vectors` vectors make, the last of which may be short."""
    return -(-v["target_vectors"] // v["tile"])


TILES = op.Count("tiles", whole_tiles)

Planes = tuple[ir.Value, ir.Value, int]  # the first, the end, and how many go at once

PIECES = (op.Count("piece_tiles"), op.Stride("pitch"))

# Units are the planes of each tile, one tile after the other; or the planes, whole.
TILE_WORK = op.work(lambda v: v["tiles"] * v["planes"], lambda v: v["planes"])
PLANE_WORK = op.work(lambda v: v["planes"], lambda v: v["planes"])


def tiled(name: str, extent: op.Size) -> tuple[op.Operand, ...]:
    """A place in the arena with the strides of its planes and tiles."""
    place = op.Place(name, op.ARENA, extent)
    return place, op.Stride(f"{name}_plane"), op.Stride(f"{name}_tile")


def plane_extent(lanes: int, name: str, *, written: bool = False) -> op.Size:
    """The extent of as many planes as the operand `planes` says, of vectors of `lanes` floats."""

    def size(v: op.Values) -> int:
        return tiled_extent(v, name, v["planes"], 4 * lanes * v["tile"], written=written)

    return size


def tiled_extent(v: op.Values, name: str, planes: int, tile: int, *, written: bool = False) -> int:
    """Bytes from the place `name` to the end of what a kernel reads or writes there.

    Args:
        v: the instruction's operands.
        name: of the place, whose strides are `name`_plane and `name`_tile.
        planes: of each tile.
        tile: bytes of one plane's tile.
        written: whether every tile of every plane must have memory of its own.

    Raises:
        ValueError: tiles or planes overlap.
    """
    plane, step, pitch = v[f"{name}_plane"], v[f"{name}_tile"], v["pitch"]
    tiles, piece_tiles = v["tiles"], v["piece_tiles"]
    end = (planes - 1) * plane + tile
    last_piece, last = divmod(tiles - 1, piece_tiles)
    whole = (min(tiles, piece_tiles) - 1) * step + end
    if written and (
        (planes > 1 and plane < tile)
        or (min(tiles, piece_tiles) > 1 and step < end)
        or (last_piece and pitch < whole)
    ):
        raise ValueError(f"tiles or planes of {name} overlap")
    if not last_piece:
        return whole
    return max((last_piece - 1) * pitch + whole, last_piece * pitch + last * step + end)


@contextmanager
def share_of_tiles(e: Emitter) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """(tile, first plane, end of the planes) for each tile of which a part is given.

    The operands planes and tiles say how many there are. Two threads may share a tile.
    """
    planes = e.field("planes")
    first, last = e.first, e.last
    stop = e.build.udiv(e.add(last, e.build.sub(planes, number(1))), planes)
    with e.loop(e.build.udiv(first, planes), stop) as tile:
        start = e.mul(tile, planes)
        low = e.largest_integer(e.build.sub(first, start), number(0))
        yield tile, low, e.smallest_integer(e.build.sub(last, start), planes)


@contextmanager
def over_my_tiles(e: Emitter) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """(tile, plane, vectors of the tile) for what is given, tile by tile.

    It uses the operands tile and target_vectors as well.
    """
    size = e.field("tile")
    with share_of_tiles(e) as (tile, low, high):
        rest = e.build.sub(e.field("target_vectors"), e.mul(tile, size))
        with e.loop(low, high) as plane:
            yield tile, plane, e.smallest_integer(size, rest)


@contextmanager
def share_in_groups(
    e: Emitter, together: int
) -> Iterator[tuple[ir.Value, ir.Value, ir.Value, tuple[Planes, Planes]]]:
    """(tile, its first vector, its vectors, ranges of planes) for each tile of `share_of_tiles`.

    A range is (first plane, end, planes at once): `together` as long as there are so many, then one
    by one. It uses the operands tile and target_vectors as well.
    """
    size, vectors = e.field("tile"), e.field("target_vectors")
    with share_of_tiles(e) as (tile, low, high):
        first = e.mul(tile, size)
        count = e.smallest_integer(size, e.build.sub(vectors, first))
        groups = e.build.udiv(e.build.sub(high, low), number(together))
        whole = e.add(low, e.mul(groups, together))
        yield tile, first, count, ((low, whole, together), (whole, high, 1))


@contextmanager
def over_my_planes(e: Emitter) -> Iterator[ir.Value]:
    """The given planes, whole."""
    with e.loop(e.first, e.last) as plane:
        yield plane


def tiled_field(e: Emitter, name: str, tile: ir.Value, plane: ir.Value) -> ir.Value:
    """The address of a plane's tile, by the operands `name`, `name`_plane and `name`_tile."""
    place = e.add(e.field(name), tile_start(e, name, tile))
    return e.at(e.base(name), e.add(place, e.mul(plane, e.field(f"{name}_plane"))))


def tile_start(e: Emitter, name: str, tile: ir.Value) -> ir.Value:
    """Bytes from tile 0 to `tile`, by the operands piece_tiles, pitch and `name`_tile."""
    size = e.field("piece_tiles")
    piece = e.build.udiv(tile, size)
    within = e.build.sub(tile, e.mul(piece, size))
    return e.add(e.mul(piece, e.field("pitch")), e.mul(within, e.field(f"{name}_tile")))
