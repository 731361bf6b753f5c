"""How a convolution is cut up: the tile, the blocks of input channels, packed or not, dense or not.

A choice costs what the kernel does, in cycles of one core: loads of the tile's pixels (cheap from
the L1 cache, dearer from the L2), weights, starts and ends of rows, partial sums, copies.
`COSTS` were fitted to timings of the kernels; the tuner measures instead of believing them.
"""

from __future__ import annotations

from dataclasses import dataclass

from strzoo.engine.hardware import Hardware


@dataclass(frozen=True)
class Costs:
    """Cycles: per vector multiplied from L1 or from L2, per weight, per row and block, per vector
    of partial sums kept and fetched, per vector written, per vector packed."""

    near: float = 0.77
    far: float = 1.29
    weight: float = 1.06
    row: float = 5.0
    partial: float = 2.6
    result: float = 12.0
    packed: float = 3.1
    unaligned: float = 0.2
    unaligned_far: float = 0.83
    dense: float = 0.6
    foreign: float = 6.0


COSTS = Costs()
LEVEL1_SHARE = 1.0  # of the cache: the rest is for weights and results that stream by


@dataclass(frozen=True, order=True)
class Tiling:
    """`tile` vectors of pixels, `blocks` of input channels, `packed` or read in place; `group`
    rows at once, 1 for the sparse kernel."""

    tile: int
    blocks: int = 1
    packed: bool = False
    group: int = 1


@dataclass(frozen=True)
class Problem:
    """A convolution as the cost model sees it.

    Args:
        vectors: of an output plane.
        rows: output channels.
        planes: input planes (channels times phases); `phases` of a channel go together.
        nonzeros: weights that are not zero; `weights` all of them.
        reach: bytes that a window reads beyond its tile.
        window: whether it has more taps than one.
        groups: of the convolution.
        aligned: every tap starts on a vector.
        threads: that share the layer.
    """

    vectors: int
    rows: int
    planes: int
    phases: int
    nonzeros: int
    weights: int
    reach: int
    window: bool
    groups: int = 1
    aligned: bool = False
    threads: int = 1


def tile_count(vectors: int, tile: int) -> tuple[int, int, int]:
    """Tiles of almost equal size: (tiles, vectors of the wide ones, how many are wide)."""
    tiles = -(-vectors // tile)
    wide = -(-vectors // tiles)
    return tiles, wide, vectors - tiles * (wide - 1)


def candidates(problem: Problem, hardware: Hardware) -> list[Tiling]:
    """Every tiling worth a look."""
    found = set()
    channels = problem.planes // problem.phases
    for tile in range(1, hardware.widest_tile + 1):
        wide = tile_count(problem.vectors, tile)[1]
        if wide != tile:
            continue
        for blocks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            if blocks > 1 and (channels < 4 * blocks or problem.groups > 1):
                continue
            if blocks > 1 and problem.rows * wide * hardware.lanes * 4 > hardware.level2:
                continue
            for packed in (False, True):
                if packed and problem.groups > 1:
                    continue
                found.add(Tiling(wide, blocks, packed))
    group, dense_tile = hardware.dense_block
    if problem.groups == 1 and problem.rows >= group:
        for tile in range(max(dense_tile - 2, 1), dense_tile + 1):
            wide = tile_count(problem.vectors, tile)[1]
            for blocks in (1, 2, 4, 8, 16):
                if blocks == 1 or channels >= 4 * blocks:
                    found.add(Tiling(wide, blocks, True, group))
    return sorted(found)


def estimate(problem: Problem, tiling: Tiling, hardware: Hardware, costs: Costs = COSTS) -> float:
    """Cycles of one core for the whole layer."""
    tile, blocks = tiling.tile, tiling.blocks
    tiles = tile_count(problem.vectors, tile)[0]
    vectors = problem.vectors
    plane_bytes = tile * hardware.lanes * 4 + problem.reach
    block_bytes = plane_bytes * problem.planes / blocks
    near = min(1.0, LEVEL1_SHARE * hardware.level1 / block_bytes)
    load = costs.near * near + costs.far * (1 - near)
    if problem.window and not problem.aligned:
        load += costs.unaligned * near + costs.unaligned_far * (1 - near)
    if tiling.group > 1:
        work = problem.weights * (costs.dense * vectors + tiles * costs.weight)
        rows = problem.rows * costs.row / tiling.group
    else:
        work = problem.nonzeros * (load * vectors + tiles * costs.weight)
        rows = problem.rows * costs.row
    total = work + rows * blocks * tiles + problem.rows * vectors * costs.result
    total += problem.rows * (blocks - 1) * vectors * costs.partial
    if tiling.packed:
        total += problem.planes * tiles * plane_bytes / (4 * hardware.lanes) * costs.packed
    if problem.threads > 1:
        total *= _imbalance(tiles, problem.threads)
        if tiles % problem.threads:  # what one thread wrote, others will read
            total += costs.foreign * (problem.planes + problem.rows) * vectors
    return total


def _imbalance(tiles: int, threads: int) -> float:
    """How much longer the busiest thread works than if the work were divided evenly: tiles may be
    shared, but not in pieces of any size."""
    return 1.0 + 0.02 * (tiles % threads != 0)


def choose_tiling(problem: Problem, hardware: Hardware) -> Tiling:
    """The cheapest by the cost model; the same for the same problem."""
    return min(candidates(problem, hardware), key=lambda t: (estimate(problem, t, hardware), t))
