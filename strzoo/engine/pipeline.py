"""The compiler's stages, in order: read, simplify, quantize (where asked for), lay out, plan
memory, lower, generate, run.

Each stage is a folder. This module needs llvmlite; `compile` is the way in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.engine.frontend.network import Network
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Graph
from strzoo.engine.ir.parts import Division
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
from strzoo.engine.runtime.steps import MisjudgedShapeError, measure_divisions
from strzoo.engine.storage.machine_code import compile_kernels
from strzoo.engine.storage.plan_cache import PlanCache, PlanKey
from strzoo.engine.storage.plan_files import USUAL_NAMES, ThreadedPlan
from strzoo.engine.tuning import tune_tilings
from strzoo.errors import IntegrityError, StrzooError, UsageError

WORTH = 0.95  # of onnxruntime's time: what islands must stay below to be kept
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
        islands: what onnxruntime may run: "auto", "missing" or "none", as `strzoo.compile`.
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
        islands: str = "auto",
    ) -> None:
        self.hardware, self.images, self.threads, self.tuned = hardware, images, threads, tune
        self.name, self.source = network.name, network.content
        self.metadata: dict[str, str] = {}
        self.names = USUAL_NAMES
        self._network, self._folder, self._on_step = network, folder, on_step
        self._cache = PlanCache(folder, hardware)
        self.fixed: PrecisionReport | None = None
        self._precision = precision
        self._islands = islands if precision is None else "none"
        self._division: Division | None = None
        self._graphs: tuple[Graph, ...] | None = None
        self._calibrated: FixedNetwork | None = None

    def build(self, images: int, threads: int) -> Built:
        """The programs for groups of `images` images that `threads` threads run together.

        These are all stages of the compiler. Plans in the cache stand for the first five.
        """
        precision = "fp32" if self._precision is None else self._precision.identity
        identity = f"{self._network.identity}, islands {self._islands}"
        key = PlanKey(identity, images, threads, self.tuned, precision)
        cached = self._cache.find(key)
        if cached is not None:
            self.metadata, self.fixed = dict(cached.metadata), cached.fixed
            self.names = cached.names
            self._division = self._division or cached.division
            return Built(self._link(cached.plans), cached.plans, True, cached.division)
        first = self._division is None
        planned = tuple(self._plan(graph, images, threads) for graph in self._prepare())
        built = Built(self._link(planned), planned, False, self._division)
        if self._calibrated is not None and self.fixed is None:
            self.fixed = self._compare(built.programs[0], self._calibrated)
        if first and self._division is not None and self._division.islands:
            built = self._measure(built)
        self._division = built.division
        self._cache.keep(key, lambda: describe_plans(self, built.planned, built.division))
        return built

    def _plan(self, graph: Graph, images: int, threads: int) -> ThreadedPlan:
        hardware = self.hardware
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
        return ThreadedPlan(plan, threads, choices)

    def _link(self, planned: Sequence[ThreadedPlan]) -> tuple[Program, ...]:
        if not planned:
            return ()
        self._on_step("generating machine code")
        kernels = [kernel for entry in planned for kernel in entry.plan.kernels]
        code = compile_kernels(kernels, self.hardware, self._folder)  # codegen/
        return tuple(Program(entry.plan, code) for entry in planned)  # runtime/

    def _prepare(self) -> tuple[Graph, ...]:
        """The graphs, read and simplified, in the precision that they are to run in; made once."""
        if self._graphs is None:
            self._on_step(f"reading {self.name}")
            known = self._division
            if known is not None and not known.sections:
                return ()
            left = None if known is None else known.left
            divided, self.metadata = self._network.divide(self._islands, left)  # frontend/
            found = divided.division
            self.names = found.inputs[0].name, found.outputs[0].name
            self._division = known or (None if divided.division.plain else divided.division)
            graphs = tuple(simplify(graph) for graph in divided.graphs)  # passes/
            if self._precision is not None:
                if not divided.division.single:
                    raise UsageError(
                        f"{self.name} has several inputs or outputs; {self._precision.name} is for "
                        "networks of one of each"
                    )
                self._on_step("calibrating")
                self._calibrated = calibrate(  # quantization/
                    graphs[0], self.hardware, self._precision, self.metadata, self._folder
                )
                graphs = (self._calibrated.graph,)
            self._graphs = graphs
        return self._graphs

    def _measure(self, built: Built) -> Built:
        """Measure a network that has islands, and leave it to onnxruntime if that is faster."""
        assert built.division is not None
        self._on_step("measuring it beside onnxruntime")
        try:
            wanted = [(built.division, built.programs)]
            if built.division.sections:
                wanted.append((self._network.keep_whole().division, ()))
            measured = measure_divisions(wanted, self.threads)
        except IntegrityError:  # onnxruntime cannot even load it
            raise
        except MisjudgedShapeError as error:  # of which every call would fail
            log.warning("%s runs in onnxruntime as a whole: %s", self.name, error)
            kept = self._network.keep_whole().division
            return Built((), (), False, replace(kept, problems=built.division.problems))
        except StrzooError as error:  # inputs that mean something are not known here
            log.info("%s is not measured: %s", self.name, error)
            return built
        division, whole = measured[0], measured[-1]
        alone = sum(whole.seconds)
        if self._islands == "auto" and sum(division.seconds) > WORTH * alone:
            problems = division.problems
            return Built((), (), False, replace(whole, alone=alone, problems=problems))
        return replace(built, division=replace(division, alone=alone))

    def _compare(self, program: Program, calibrated: FixedNetwork) -> PrecisionReport:
        """Run the images that were held out."""
        held_out = calibrated.held_out
        outputs = np.empty((len(held_out), *program.plan.output_shape), np.float32)
        Runner(self.threads).run(program, held_out, outputs)
        return calibrated.report(outputs)

    def release(self, *, finished: bool) -> None:
        """Let go of the graphs if they can be read again; with `finished`, of all that was read."""
        if finished or self._network.kept:
            self._graphs = self._calibrated = None
            self._network.forget()
        if finished and not self._network.kept:
            self._network = replace(self._network, read=_refuse)


def _refuse() -> Any:
    raise AssertionError("the network was released: all its plans are made")
