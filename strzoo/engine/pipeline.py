"""The compiler's stages, in order: read, simplify, quantize (where asked for), lay out, plan
memory, lower, generate, run.

Each stage is a folder. This module needs llvmlite; `compile` is the way in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.engine.frontend.network import Network
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.layout.allocation import plan_memory
from strzoo.engine.layout.layouts import lay_out
from strzoo.engine.layout.problems import choose_tilings, list_problems
from strzoo.engine.lowering.choices import list_choices
from strzoo.engine.lowering.lower import lower
from strzoo.engine.passes import simplify
from strzoo.engine.quantization.calibration import FixedNetwork, Precision, calibrate
from strzoo.engine.results import PrecisionReport
from strzoo.engine.runtime.model import Built, describe_plans
from strzoo.engine.runtime.run import Program, Runner
from strzoo.engine.storage.machine_code import compile_kernels
from strzoo.engine.storage.plan_cache import PlanCache, PlanKey
from strzoo.engine.storage.plan_files import USUAL_NAMES, ThreadedPlan
from strzoo.engine.tuning import tune_tilings

log = logging.getLogger(__name__)


class NetworkBuilder:
    """Builds the programs of a network when they are first needed; see `ProgramBuilder`.

    Args:
        network: to compile.
        hardware: the processor.
        images: that go side by side in a vector where a batch has enough.
        threads: that one call uses.
        tune: seconds to spend on measuring how each layer runs best; 0 goes by fixed rules.
        precision: how to bring it into 16-bit fixed point; None leaves it in fp32.
        folder: keeps plans and machine code; None keeps none.
        on_step: called with one line that says what happens next.
    """

    def __init__(
        self,
        network: Network,
        hardware: Hardware,
        images: int,
        threads: int,
        tune: float = 0.0,
        precision: Precision | None = None,
        folder: Path | None = None,
        on_step: Callable[[str], object] = log.info,
    ) -> None:
        self.hardware, self.images, self.threads, self.tuned = hardware, images, threads, tune
        self.name, self.source = network.name, network.content
        self.metadata: dict[str, str] = {}
        self.names = USUAL_NAMES
        self._network, self._folder, self._on_step = network, folder, on_step
        self._cache = PlanCache(folder, hardware)
        self.fixed: PrecisionReport | None = None
        self._precision = precision
        self._graph: Graph | None = None
        self._calibrated: FixedNetwork | None = None

    def build(self, images: int, threads: int) -> Built:
        """The program for groups of `images` images that `threads` threads run together.

        These are all stages of the compiler. A plan in the cache stands for the first five.
        """
        hardware = self.hardware
        precision = "fp32" if self._precision is None else self._precision.identity
        key = PlanKey(self._network.identity, images, threads, self.tuned, precision)
        cached = self._cache.find(key)
        if cached is not None:
            self.metadata, self.fixed = dict(cached.metadata), cached.fixed
            self.names = cached.names
            planned = cached.plans[0]
        else:
            graph = self._prepare()
            self._on_step("planning")
            problems = list_problems(graph, hardware, images, threads)
            tilings = choose_tilings(problems, hardware)
            if self.tuned:
                self._on_step(f"measuring layers for up to {self.tuned:g} s")
                tilings = tune_tilings(graph, hardware, images, threads, self.tuned)
            memory = lay_out(graph, images, hardware, threads, tilings)  # layout/
            memory = plan_memory(graph, memory)  # layout/
            plan = lower(graph, memory, hardware, tilings, threads)  # lowering/
            choices = list_choices(graph, hardware, problems, tilings, plan.chosen)
            planned = ThreadedPlan(plan, threads, choices)
        self._on_step("generating machine code")
        code = compile_kernels(planned.plan.kernels, hardware, self._folder)  # codegen/
        program = Program(planned.plan, code)  # runtime/
        if cached is None:
            if self._calibrated is not None and self.fixed is None:
                self.fixed = self._compare(program, self._calibrated)
            self._cache.keep(key, lambda: describe_plans(self, (planned,)))  # storage/
        return Built(program, planned, cached is not None)

    def _prepare(self) -> Graph:
        """The graph, read and simplified, in the precision that it is to run in; made once."""
        if self._graph is None:
            self._on_step(f"reading {self.name}")
            graph, self.metadata, self.names = self._network.read()  # frontend/
            graph = simplify(graph)  # passes/
            if self._precision is not None:
                self._on_step("calibrating")
                self._calibrated = calibrate(  # quantization/
                    graph, self.hardware, self._precision, self.metadata, self._folder
                )
                graph = self._calibrated.graph
            self._graph = graph
        return self._graph

    def _compare(self, program: Program, calibrated: FixedNetwork) -> PrecisionReport:
        """Run the images that were held out."""
        held_out = calibrated.held_out
        outputs = np.empty((len(held_out), *program.plan.output_shape), np.float32)
        Runner(self.threads).run(program, held_out, outputs)
        return calibrated.report(outputs)

    def release(self, *, finished: bool) -> None:
        """Let go of the graph if it can be read again; with `finished`, of all that was read."""
        if finished or self._network.kept:
            self._graph = self._calibrated = None
        if finished and not self._network.kept:
            self._network = replace(self._network, read=_refuse)


def _refuse() -> Any:
    raise AssertionError("the network was released: all its plans are made")
