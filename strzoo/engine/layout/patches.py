"""What the window of a tile reads: a patch of every plane, copied side by side to scratch memory.

The tile's outputs are rows of a region (or a part of one row), so what they read is a rectangle of
vectors. Vectors of it that are beyond the region's edge are those of the neighbouring region: the
same vector as at the other end of the region, its lanes moved by one region. Where there is no
region, there is the map's fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.codegen.patches import PatchForm
from strzoo.engine.layout.buffers import Frame, Map, Regions
from strzoo.engine.layout.taps import Taps


def fits_rows(tile: int, regions: Regions) -> bool:
    """Whether tiles of so many vectors are whole rows of a region, or equal parts of one."""
    wide = regions.block[1]
    return tile % wide == 0 or wide % tile == 0


@dataclass(frozen=True)
class Patch:
    """The rectangle that a tile's window reads, in vectors: from (top, left) of the tile's first
    output on, `height` rows of `width`."""

    top: int
    left: int
    height: int
    width: int

    @property
    def vectors(self) -> int:
        """An odd number: planes that are a power of two apart would share a set of the cache."""
        return self.height * self.width | 1

    def offsets(self, taps: Taps, lanes: int) -> np.ndarray:
        """Bytes from the start of a plane's patch to each tap of the first output; int64."""
        steps = np.asarray(taps.steps, np.int64)
        return ((steps[:, 0] - self.top) * self.width + steps[:, 1] - self.left) * 4 * lanes


def find_patch(taps: Taps, tile: int, regions: Regions) -> Patch:
    """The patch of every tile of `tile` vectors of an output with those regions."""
    columns = min(tile, regions.block[1])
    sizes = (min(tile // columns, regions.block[0]), columns)
    low, spans = [], []
    for axis in (0, 1):
        steps = [step[axis] for step in taps.steps]
        low.append(min(steps))
        spans.append((sizes[axis] - 1) * taps.advance[axis] + max(steps) - min(steps) + 1)
    return Patch(low[0], low[1], spans[0], spans[1])


@dataclass(frozen=True, eq=False)
class Moves:
    """How the patches of all tiles are filled.

    Args:
        form: what the kernel that does it needs to know.
        ends: int32 [tiles * kinds + 1]: where the moves of a tile and kind start; `form.kinds`
            are how lanes move.
        moves: int32 [moves, 2]: bytes in a plane of the source (its tile 0 is at 0), and bytes in
            the plane's patch.
    """

    form: PatchForm
    ends: np.ndarray
    moves: np.ndarray


def list_moves(taps: Taps, patch: Patch, source: Map, target: Frame) -> Moves:
    """Args: `source` is the map that the window reads, `target` the frame of the output."""
    frame = source.geometry
    (high, wide), grid = frame.regions.block, frame.regions.grid
    steps = np.unique(np.asarray(taps.steps), axis=0)
    found = []
    for tile in range(target.tiles):
        outputs = np.arange(min(target.tile, target.vectors - tile * target.tile))
        row, column = np.divmod(outputs, target.columns)
        first = np.divmod(tile * target.tile, target.regions.block[1])
        # Where each tap of each output is, in the patch and in the region.
        down = (row[:, None] * taps.advance[0] + steps[:, 0] - patch.top).reshape(-1)
        across = (column[:, None] * taps.advance[1] + steps[:, 1] - patch.left).reshape(-1)
        within = np.unique(down * patch.width + across)
        down, across = np.divmod(within, patch.width)
        down_region, down = np.divmod(first[0] * taps.advance[0] + patch.top + down, high)
        across_region, across = np.divmod(first[1] * taps.advance[1] + patch.left + across, wide)
        outside = (abs(down_region) >= grid[0]) | (abs(across_region) >= grid[1])
        down_region[outside], across_region[outside] = grid
        place = source.bytes((down * wide + across) * frame.lanes)
        place[outside] = 0
        into = within * 4 * frame.lanes
        found.append(np.stack((down_region, across_region, place, into), axis=1))
    everything = np.concatenate(found)
    inside = everything[everything[:, 0] < grid[0], :2]
    least, most = (inside.min(0), inside.max(0)) if len(inside) else ((0, 0), (0, 0))
    form = PatchForm(
        size=patch.vectors,
        columns=target.columns,
        down=patch.width * taps.advance[0],
        across=taps.advance[1],
        images=frame.images,
        grid_rows=grid[0],
        grid_columns=grid[1],
        up=max(-int(least[0]), 0),
        below=max(int(most[0]), 0),
        before=max(-int(least[1]), 0),
        after=max(int(most[1]), 0),
        outside=len(inside) < len(everything),
    )
    ends, moves = [0], []
    for rows in found:
        for kind in form.kinds:
            chosen = rows[(rows[:, 0] == kind[0]) & (rows[:, 1] == kind[1])]
            moves.append(chosen[:, 2:])
            ends.append(ends[-1] + len(chosen))
    return Moves(form, np.asarray(ends, np.int32), np.concatenate(moves).astype(np.int32))
