"""Patches: what the window of a tile reads of every plane, copied to scratch memory.

The outputs of a tile are rows of a block (or a part of one row), so they read a rectangle of
vectors. A vector beyond the block's edge belongs to the neighbouring block: it is the vector at the
other end of the block with its lanes moved by one block. Places outside all blocks hold the
buffer's fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.codegen.patches import PatchForm
from strzoo.engine.layout.buffers import Blocking, Buffer, Layout
from strzoo.engine.layout.taps import Taps


def fits_rows(tile: int, blocking: Blocking) -> bool:
    """Whether tiles of `tile` vectors are whole rows of a block, or equal parts of one row."""
    wide = blocking.block[1]
    return tile % wide == 0 or wide % tile == 0


@dataclass(frozen=True)
class Patch:
    """The rectangle that a tile's window reads, in vectors.

    Args:
        top, left: of the rectangle, from the tile's first output.
        height, width: of the rectangle.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def vectors(self) -> int:
        """Made odd, because planes a power of two apart would compete for one set of the cache."""
        return self.height * self.width | 1

    def byte_offsets(self, taps: Taps, lanes: int) -> np.ndarray:
        """Bytes from the start of a plane's patch to each tap of the first output, in vectors of
        `lanes` floats; int64 [taps]."""
        offsets = np.asarray(taps.offsets, np.int64)
        return ((offsets[:, 0] - self.top) * self.width + offsets[:, 1] - self.left) * 4 * lanes


def find_patch(taps: Taps, tile: int, blocking: Blocking) -> Patch:
    """The patch of every tile of `tile` vectors of an output with that blocking."""
    columns = min(tile, blocking.block[1])
    sizes = (min(tile // columns, blocking.block[0]), columns)
    low, spans = [], []
    for axis in (0, 1):
        offsets = [step[axis] for step in taps.offsets]
        low.append(min(offsets))
        spans.append((sizes[axis] - 1) * taps.advance[axis] + max(offsets) - min(offsets) + 1)
    return Patch(low[0], low[1], spans[0], spans[1])


@dataclass(frozen=True, eq=False)
class PatchCopies:
    """How the patches of all tiles are filled.

    Args:
        form: the part that is compiled into the kernel.
        ends: int32 [tiles * kinds + 1]: where the copies of a tile and kind start. `form.kinds`
            says how the lanes of each kind move.
        copies: int32 [copies, 2]: bytes from the start of a plane of the source, and bytes from the
            start of the plane's patch.
    """

    form: PatchForm
    ends: np.ndarray
    copies: np.ndarray


def list_copies(taps: Taps, patch: Patch, source: Buffer, target: Layout) -> PatchCopies:
    """Args: `source` is the buffer that the window reads, `target` the layout of the output."""
    layout = source.layout
    (high, wide), grid = layout.blocking.block, layout.blocking.grid
    offsets = np.unique(np.asarray(taps.offsets), axis=0)
    found = []
    for tile in range(target.tiles):
        outputs = np.arange(min(target.tile, target.vectors - tile * target.tile))
        row, column = np.divmod(outputs, target.columns)
        first = np.divmod(tile * target.tile, target.blocking.block[1])
        # Where each tap of each output is, in the patch and in the block.
        down = (row[:, None] * taps.advance[0] + offsets[:, 0] - patch.top).reshape(-1)
        across = (column[:, None] * taps.advance[1] + offsets[:, 1] - patch.left).reshape(-1)
        within = np.unique(down * patch.width + across)
        down, across = np.divmod(within, patch.width)
        down_block, down = np.divmod(first[0] * taps.advance[0] + patch.top + down, high)
        across_block, across = np.divmod(first[1] * taps.advance[1] + patch.left + across, wide)
        outside = (abs(down_block) >= grid[0]) | (abs(across_block) >= grid[1])
        down_block[outside], across_block[outside] = grid
        place = source.bytes((down * wide + across) * layout.lanes)
        place[outside] = 0
        into = within * layout.vector
        found.append(np.stack((down_block, across_block, place, into), axis=1))
    everything = np.concatenate(found)
    inside = everything[everything[:, 0] < grid[0], :2]
    least, most = (inside.min(0), inside.max(0)) if len(inside) else ((0, 0), (0, 0))
    form = PatchForm(
        size=patch.vectors,
        columns=target.columns,
        down=patch.width * taps.advance[0],
        across=taps.advance[1],
        images=layout.images,
        grid_rows=grid[0],
        grid_columns=grid[1],
        up=max(-int(least[0]), 0),
        below=max(int(most[0]), 0),
        before=max(-int(least[1]), 0),
        after=max(int(most[1]), 0),
        outside=len(inside) < len(everything),
    )
    ends, copies = [0], []
    for rows in found:
        for kind in form.kinds:
            chosen = rows[(rows[:, 0] == kind[0]) & (rows[:, 1] == kind[1])]
            copies.append(chosen[:, 2:])
            ends.append(ends[-1] + len(chosen))
    return PatchCopies(form, np.asarray(ends, np.int32), np.concatenate(copies).astype(np.int32))
