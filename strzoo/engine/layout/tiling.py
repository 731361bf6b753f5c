"""The cost model: tiles of buffers, and for each convolution its blocks of input channels and
whether it runs sparse or dense.

The cost of a choice is the sum of what the kernel does, in cycles of one core: loads of the tile's
pixels (cheaper from the L1 cache than from the L2), weights, starts and ends of rows, partial sums,
copies. `COSTS` were fitted to timings of the kernels. The tuner measures instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from strzoo.engine.codegen.rows import REACH
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.fixed import FixedConvolution, count_parts
from strzoo.engine.ir.fours import FOUR
from strzoo.engine.ir.graph import Convolution
from strzoo.engine.ir.quads import QuadConvolution, find_quads
from strzoo.engine.layout.buffers import Blocking
from strzoo.engine.layout.patches import find_patch, fits_rows
from strzoo.engine.layout.taps import Taps


@dataclass(frozen=True)
class Costs:
    """Cycles of one core.

    Args:
        near, far, distant: per vector multiplied from the L1 cache, the L2 cache, or beyond.
        weight: per weight and tile.
        row: per row, block of channels and tile.
        partial: per vector of partial sums that is stored and loaded again.
        result: per vector written.
        packed: per vector of a patch.
        dense: per vector multiplied in a dense kernel, at least.
        foreign: per vector that another core wrote.
    """

    near: float = 0.6
    far: float = 1.3
    distant: float = 2.0
    weight: float = 0.95
    row: float = 2.0
    partial: float = 2.1
    result: float = 7.0
    packed: float = 2.9
    dense: float = 0.52
    foreign: float = 6.0


COSTS = Costs()
# Of 16-bit fixed point: two instructions for a vector, and more to set up for a row.
FIXED_COSTS = Costs(
    near=1.38, far=2.0, distant=2.7, weight=1.0, row=9.4, partial=1.9, result=3.8, packed=2.3
)
# Of 8 bits: an instruction for four weights, and much to do for a result.
QUAD_COSTS = Costs(near=1.0, far=1.3, distant=1.8, weight=1.0, row=6.0, result=4.5, packed=2.0)
DEFAULT_TILE = 8  # vectors, of buffers that no convolution writes
LEVEL2_SHARE = 0.8  # of the cache: the rest is for weights and results that stream by
WIDER = 0.95  # of the cost, at most, for which blocks are made wider than the map
DEPTHWISE_TAPS = 25  # more do not fit the registers
DEPTHWISE_DENSITY = 0.4


@dataclass(frozen=True, order=True)
class Tiling:
    """How a convolution runs.

    Args:
        tile: vectors of pixels computed at once.
        channel_blocks: into which the input channels are divided.
        group: rows (output channels) computed at once; 1 is the sparse kernel.
    """

    tile: int
    channel_blocks: int = 1
    group: int = 1


@dataclass(frozen=True)
class Problem:
    """A convolution as the cost model sees it.

    Args:
        blocking: of the output.
        taps: of the window.
        rows: output channels.
        planes: input planes (channels times phases).
        nonzeros: weights that are not zero.
        weights: all weights.
        groups: of the convolution.
        threads: that share the layer.
        whole_rows: tiles must be rows of a block, for this layer or another with the same tiles.
        fixed: 16-bit fixed point, for which there is no dense form.
        quads: 8 bits, for which there is none; `planes`, `nonzeros` and `weights` count quads.
    """

    blocking: Blocking
    taps: Taps
    rows: int
    planes: int
    nonzeros: int
    weights: int
    groups: int = 1
    threads: int = 1
    whole_rows: bool = True
    fixed: bool = False
    quads: bool = False

    @property
    def vectors(self) -> int:
        """Of an output plane."""
        return self.blocking.vectors

    def read(self, tile: int) -> int:
        """Vectors of a plane that a tile reads."""
        return find_patch(self.taps, tile, self.blocking).vectors if self.taps.window else tile


def is_depthwise(layer: Convolution) -> bool:
    """Whether the depthwise kernel runs the layer: few taps, hardly pruned, no residual."""
    weight = layer.weight
    return bool(
        layer.groups > 1
        and weight.shape[1] == 1
        and weight.shape[2] * weight.shape[3] <= DEPTHWISE_TAPS
        and np.count_nonzero(weight) > DEPTHWISE_DENSITY * weight.size
        and len(layer.inputs) == 1
    )


def pose_problem(
    layer: Convolution, taps: Taps, blocking: Blocking, threads: int, *, whole_rows: bool
) -> Problem:
    """Describe `layer`, whose output has that blocking."""
    fixed, quads = isinstance(layer, FixedConvolution), isinstance(layer, QuadConvolution)
    inputs, weights = layer.weight.shape[1], layer.weight.size
    nonzeros = count_parts(layer.weight) if fixed else int(np.count_nonzero(layer.weight))
    if quads:
        living = find_quads(layer.weight)
        nonzeros, weights, inputs = int(np.count_nonzero(living)), living.size, living.shape[1]
    return Problem(
        blocking=blocking,
        taps=taps,
        rows=len(layer.weight),
        planes=inputs * layer.groups * len(taps.phases),
        nonzeros=nonzeros,
        weights=weights,
        groups=layer.groups,
        threads=threads,
        whole_rows=whole_rows,
        fixed=fixed,
        quads=quads,
    )


def candidates(problem: Problem, tile: int, hardware: Hardware) -> list[Tiling]:
    """The tilings with that tile that are worth comparing, at least one."""
    channels = problem.planes // len(problem.taps.phases)
    found: list[Tiling] = []
    group = 1 if problem.fixed or problem.quads else hardware.dense_rows(tile)
    read = problem.read(tile) * len(problem.taps.phases)
    for blocks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        worth = blocks == 1 or (channels >= 4 * blocks and problem.groups == 1)
        # A block of more vectors than an entry can name is not possible.
        if -(-channels // blocks) * read > REACH or (found and not worth):
            continue
        found.append(Tiling(tile, blocks))
        if group > 1 and problem.groups == 1 and problem.rows >= group:
            found.append(Tiling(tile, blocks, group))
    return found


def estimate(
    problem: Problem, tiling: Tiling, hardware: Hardware, costs: Costs | None = None
) -> float:
    """Estimated cycles for the whole layer, of all cores together."""
    if costs is None:
        costs = FIXED_COSTS if problem.fixed else QUAD_COSTS if problem.quads else COSTS
    tile, blocks, vectors = tiling.tile, tiling.channel_blocks, problem.vectors
    tiles = -(-vectors // tile)
    read = problem.read(tile)
    size = read * problem.planes * 4 * hardware.lanes / blocks
    near = min(1.0, hardware.level1 / size)
    close = min(1.0, LEVEL2_SHARE * hardware.level2 / size)
    load = costs.near * near + costs.far * (close - near) + costs.distant * (1 - close)
    if tiling.group > 1:
        loads = load / tiling.group
        weight = costs.weight / tiling.group
        work = problem.weights * (max(loads, costs.dense) * vectors + tiles * weight)
        rows = problem.rows * costs.row / tiling.group
    else:
        work = problem.nonzeros * (load * vectors + tiles * costs.weight)
        rows = problem.rows * costs.row
    total = work + rows * blocks * tiles + problem.rows * vectors * costs.result
    total += problem.rows * (blocks - 1) * vectors * costs.partial
    if problem.taps.window:
        total += problem.planes * tiles * read * costs.packed
    if problem.threads > 1:
        total *= tiles * tile / vectors  # all threads wait for the one with the most tiles
    if problem.threads > 1 and tiles % problem.threads:
        # Threads share the last tiles, and read what another thread wrote.
        total += costs.foreign * (problem.planes + problem.rows) * vectors / tiles
    return total


def choose_tiling(problem: Problem, tile: int, hardware: Hardware) -> Tiling:
    """The cheapest tiling by the cost model; equal problems get equal tilings."""
    options = candidates(problem, tile, hardware)
    return min(options, key=lambda t: (estimate(problem, t, hardware), t))


def widen(blocking: Blocking, layers: Sequence[Convolution], hardware: Hardware) -> Blocking:
    """`blocking`, with wider blocks where these have larger tiles that are whole rows of a block or
    equal parts of one: rows of 37 have tiles of 1, rows of 39 of 13.

    Args:
        blocking: of what the layers write.
        layers: convolutions, of which one at least needs such tiles.
    """
    fixed = any(isinstance(layer, FixedConvolution) for layer in layers)
    costs, widest = FIXED_COSTS if fixed else COSTS, find_widest(hardware, fixed=fixed)
    rows = sum(len(layer.weight) for layer in layers)
    weights = sum(np.count_nonzero(layer.weight) for layer in layers) / rows if rows else 0.0

    def cost(wide: int) -> float:
        """Of a plane, where tiles are as large as can be."""
        wider = replace(blocking, block=(blocking.block[0], wide))
        most = min(widest, wider.vectors)
        tiles = -(-wider.vectors // max(t for t in range(1, most + 1) if fits_rows(t, wider)))
        vector, tile = weights * costs.near + costs.result, weights * costs.weight + costs.row
        return vector * wider.vectors + tile * tiles

    high, wide = blocking.block
    best = min(range(wide, wide + max(2, wide // 8) + 1), key=cost)
    return replace(blocking, block=(high, best)) if cost(best) < WIDER * cost(wide) else blocking


def find_widest(hardware: Hardware, *, fixed: bool) -> int:
    """Vectors of the largest tile."""
    return hardware.registers - 2 * FOUR if fixed else hardware.widest_tile


def choose_tile(
    problems: Sequence[Problem],
    blocking: Blocking,
    hardware: Hardware,
    threads: int,
    *,
    whole_rows: bool,
) -> int:
    """The tile of buffers with that blocking that these convolutions write."""
    if problems:
        return rank_tiles(problems, hardware)[0]
    tiles = max(threads, -(-blocking.vectors // DEFAULT_TILE))
    most = max(1, -(-blocking.vectors // tiles))
    if not whole_rows:
        return most
    return max(size for size in range(1, most + 1) if fits_rows(size, blocking))


def rank_tiles(problems: Sequence[Problem], hardware: Hardware) -> list[int]:
    """Tiles of buffers that these convolutions write, the cheapest first."""

    def cost(tile: int) -> float:
        return sum(
            estimate(problem, choose_tiling(problem, tile, hardware), hardware)
            for problem in problems
        )

    blocking = problems[0].blocking
    fixed = any(problem.fixed for problem in problems)
    widest = find_widest(hardware, fixed=fixed)
    options = range(1, min(blocking.vectors, widest) + 1)
    if any(problem.whole_rows for problem in problems):
        return sorted((t for t in options if fits_rows(t, blocking)), key=lambda t: (cost(t), t))
    sizes = {-(-blocking.vectors // n) for n in range(1, blocking.vectors + 1)}
    return sorted(sizes & set(options), key=lambda tile: (cost(tile), tile))
