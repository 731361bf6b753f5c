"""Rewriting a graph into fewer, fused layers: `simplify` runs the named passes in order."""

from __future__ import annotations

import logging
from collections.abc import Callable

from strzoo.engine.ir.graph import Graph
from strzoo.engine.passes.affine import fold_affine
from strzoo.engine.passes.bounds import fuse_bounds
from strzoo.engine.passes.branches import merge_branches
from strzoo.engine.passes.channels import absorb_channels
from strzoo.engine.passes.dead import drop_dead_layers
from strzoo.engine.passes.gates import join_gates
from strzoo.engine.passes.heads import flatten_heads
from strzoo.engine.passes.moves import move_forward
from strzoo.engine.passes.noops import drop_noops
from strzoo.engine.passes.pools import globalise_pools
from strzoo.engine.passes.residuals import fuse_residuals

log = logging.getLogger(__name__)

# In this order: heads become Linear before scales and bounds are fused into them, and an Add takes
# its ReLU before a convolution takes the Add.
PASSES: tuple[Callable[[Graph], Graph], ...] = (
    drop_dead_layers,
    drop_noops,
    globalise_pools,
    flatten_heads,
    absorb_channels,
    join_gates,
    move_forward,
    fold_affine,
    drop_noops,
    fuse_bounds,
    fuse_residuals,
    merge_branches,
)


def simplify(graph: Graph) -> Graph:
    """The same network in fewer layers; each pass leaves a valid graph."""
    for step in PASSES:
        before = len(graph.layers)
        graph = step(graph)
        log.debug("%s: %d layers -> %d", step.__name__, before, len(graph.layers))
    return graph
