"""Graph -> Plan: everything a run needs but the machine code, in arrays of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Graph, Shape
from strzoo.engine.layout.memory_planning import place_values
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.instructions import ROW_FIELDS, Kernel, Step
from strzoo.engine.lowering.lower import assemble


@dataclass(frozen=True, eq=False)
class Plan:
    """How to run a network on groups of `images` images.

    Args:
        rows: int64 [steps, fields]: what each step's kernel reads; column 0 is left for the
            kernel's address.
        kernels: per step, the kernel; layers: per step, the layer it serves.
        constants: uint8.
        arena: bytes.
        scratch: bytes per thread.
        input_shape, output_shape: of one image.
        chosen: per layer, how it runs.
    """

    images: int
    lanes: int
    rows: np.ndarray
    kernels: tuple[Kernel, ...]
    layers: tuple[str, ...]
    constants: np.ndarray
    arena: int
    scratch: int
    input_shape: Shape
    output_shape: Shape
    chosen: dict[str, str]


def make_plan(
    graph: Graph,
    hardware: Hardware,
    images: int = 1,
    tilings: Mapping[str, Tiling] | None = None,
    threads: int = 1,
) -> Plan:
    """Args: `images` go together, a power of two up to the hardware's lanes, and `threads` work on
    them together (any number can; it is this one that the plan is good for)."""
    tilings = tilings or {}
    tiles = {name: tiling.tile for name, tiling in tilings.items()}
    placement = place_values(graph, images, hardware, threads, tiles)
    work = assemble(graph, placement, hardware, tilings, threads)
    return Plan(
        images,
        hardware.lanes,
        _rows(work.steps),
        tuple(step.kernel for step in work.steps),
        tuple(step.layer for step in work.steps),
        work.constants.block(),
        4 * placement.size,
        work.scratch + 4096,
        graph.shapes[graph.input],
        graph.shapes[graph.output],
        work.chosen,
    )


def _rows(steps: list[Step]) -> np.ndarray:
    rows = np.zeros((len(steps), ROW_FIELDS), np.int64)
    for index, step in enumerate(steps):
        rows[index] = step.row(sync=index + 1)
    return rows
