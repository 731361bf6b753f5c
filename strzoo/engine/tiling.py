"""How work is cut up: the tile of a set of maps, and for each convolution the blocks of input
channels and whether it runs sparse or dense.

A choice costs what the kernel does, in cycles of one core: loads of the tile's pixels (cheap from
the L1 cache, dearer from the L2), weights, starts and ends of rows, partial sums, copies.
`COSTS` were fitted to timings of the kernels; the tuner measures instead of believing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strzoo.engine.graph import Convolution
from strzoo.engine.hardware import Hardware
from strzoo.engine.layout import Map, flat_vectors
from strzoo.engine.taps import Taps


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
DEFAULT_TILE = 8  # vectors, where no convolution has a say
LEVEL1_SHARE = 1.0  # of the cache: the rest is for weights and results that stream by


@dataclass(frozen=True, order=True)
class Tiling:
    """`tile` vectors of pixels, `blocks` of input channels; `group` rows at once, 1 for the sparse
    kernel."""

    tile: int
    blocks: int = 1
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


def pose_problem(
    layer: Convolution,
    taps: Taps,
    target: Map,
    pitch: int,
    images: int,
    hardware: Hardware,
    threads: int,
) -> Problem:
    """Describe `layer`, whose maps have rows `pitch` pixels apart."""
    offsets = taps.offsets(pitch, images)
    vector = 4 * hardware.lanes
    return Problem(
        vectors=flat_vectors(target.height, target.width, pitch, images, hardware.lanes),
        rows=len(layer.weight),
        planes=layer.weight.shape[1] * layer.groups * len(taps.phases),
        phases=len(taps.phases),
        nonzeros=int(np.count_nonzero(layer.weight)),
        weights=layer.weight.size,
        reach=int(max(offsets.max(), 0) - min(offsets.min(), 0)),
        window=taps.window,
        groups=layer.groups,
        aligned=not bool((offsets % vector).any()),
        threads=threads,
    )


def candidates(problem: Problem, tile: int, hardware: Hardware) -> list[Tiling]:
    """Every way to run a layer in tiles of that size that is worth a look."""
    channels = problem.planes // problem.phases
    found = []
    group = hardware.dense_rows(tile)
    for blocks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        if blocks > 1 and (channels < 4 * blocks or problem.groups > 1):
            continue
        found.append(Tiling(tile, blocks))
        if group > 1 and problem.groups == 1 and problem.rows >= group:
            found.append(Tiling(tile, blocks, group))
    return found


def estimate(problem: Problem, tiling: Tiling, hardware: Hardware, costs: Costs = COSTS) -> float:
    """Cycles of one core for the whole layer; with more threads, of all cores together."""
    tile, blocks, vectors = tiling.tile, tiling.blocks, problem.vectors
    tiles = -(-vectors // tile)
    plane_bytes = tile * hardware.lanes * 4 + problem.reach
    block_bytes = plane_bytes * problem.planes / blocks
    near = min(1.0, LEVEL1_SHARE * hardware.level1 / block_bytes)
    load = costs.near * near + costs.far * (1 - near)
    if problem.window and not problem.aligned:
        load += costs.unaligned * near + costs.unaligned_far * (1 - near)
    if tiling.group > 1:
        loads = load / tiling.group
        work = problem.weights * (max(loads, costs.dense) * vectors + tiles * costs.weight)
        rows = problem.rows * costs.row / tiling.group
    else:
        work = problem.nonzeros * (load * vectors + tiles * costs.weight)
        rows = problem.rows * costs.row
    total = work + rows * blocks * tiles + problem.rows * vectors * costs.result
    total += problem.rows * (blocks - 1) * vectors * costs.partial
    if problem.window:
        total += problem.planes * tiles * plane_bytes / (4 * hardware.lanes) * costs.packed
    if problem.threads > 1 and tiles % problem.threads:
        # The last tiles are shared, and what one thread wrote the others will read.
        total += costs.foreign * (problem.planes + problem.rows) * vectors / tiles
    return total


def choose_tiling(problem: Problem, tile: int, hardware: Hardware) -> Tiling:
    """The cheapest by the cost model; the same for the same problem."""
    options = candidates(problem, tile, hardware)
    return min(options, key=lambda t: (estimate(problem, t, hardware), t))


def choose_tile(problems: Sequence[Problem], vectors: int, hardware: Hardware, threads: int) -> int:
    """The tile for maps of at most `vectors` a plane that these convolutions write."""
    if not problems:
        return max(1, -(-vectors // max(threads, -(-vectors // DEFAULT_TILE))))
    return rank_tiles(problems, hardware)[0]


def rank_tiles(problems: Sequence[Problem], hardware: Hardware) -> list[int]:
    """Tiles for maps that these convolutions write, the cheapest first."""

    def cost(tile: int) -> float:
        return sum(
            estimate(problem, choose_tiling(problem, tile, hardware), hardware)
            for problem in problems
        )

    vectors = max((problem.vectors for problem in problems), default=0)
    sizes = {-(-vectors // n) for n in range(1, vectors + 1)}
    options = [size for size in sizes if size <= hardware.widest_tile]
    return sorted(options, key=lambda tile: (cost(tile), tile))
