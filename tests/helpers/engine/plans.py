"""Plans of graphs, by the stages of the compiler that need no machine code."""

from __future__ import annotations

from collections.abc import Mapping

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.layout.allocation import plan_memory
from strzoo.engine.layout.layouts import lay_out
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.lower import lower
from strzoo.engine.lowering.plan import Plan


def make_plan(
    graph: Graph,
    hardware: Hardware,
    images: int = 1,
    tilings: Mapping[str, Tiling] | None = None,
    threads: int = 1,
) -> Plan:
    """The plan of a simplified graph for groups of `images` images."""
    memory = plan_memory(graph, lay_out(graph, images, hardware, threads, tilings or {}))
    return lower(graph, memory, hardware, tilings or {}, threads)
