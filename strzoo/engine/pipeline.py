"""compile: any network as a `SparseModel`, by way of the cache."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strzoo.engine.frontend.network import Network, open_network, spell_size
from strzoo.engine.hardware import Hardware, default_threads, host_hardware
from strzoo.engine.requirement import require_llvmlite
from strzoo.errors import StrzooError, UsageError
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import PlanSource
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.engine.ir.graph import Graph
    from strzoo.engine.runtime.model import Built, SparseModel
    from strzoo.engine.storage.plan_files import PlanFile, ThreadedPlan

log = logging.getLogger(__name__)


def compile(
    model: Model,
    threads: int | None = None,
    batch: int | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    lanes: int | None = None,
    tune: float = 0.0,
    cache: bool = True,
    settings: Settings | None = None,
    on_step: Callable[[str], object] = log.info,
) -> SparseModel:
    """`model` compiled for this processor: zero weights cost nothing.

    The result is called with images [N, C, H, W] of any N and gives what the network gives, in
    fp32. What was compiled is kept in the cache folder and found there again by content.

    Args:
        model: a model id, a checkpoint file, an ONNX file, its bytes or an `onnx.ModelProto`, a
            torch network (BatchNorm as in evaluation mode), or a `.strz` file.
        threads: that a call uses; by default all cores that this process may use, or what a
            `.strz` file was made for.
        batch: the batch size to be fast at; any other works too.
        size: side, (height, width) or (channels, height, width) of the images, where the model
            leaves it open; by default what it was made for.
        lanes: images of a batch that go side by side in a vector, a power of two up to its width;
            by default 1: pixels fill the vectors, which measured best where it was tried.
        tune: seconds to spend on measuring how each layer runs best; 0 goes by fixed rules.
        cache: whether to use the cache folder.
        settings: cache folder, registries, network switches; from the environment by default.
        on_step: told what happens next, in one line.

    Raises:
        UsageError: an argument is not valid, or the network has operators that the engine lacks;
            all of them are listed.
        StrzooError: llvmlite is not installed, or the file cannot be read.
        IntegrityError: a file is damaged, or a `.strz` file is for another processor or version.
        UnknownNameError, OfflineError, NetworkError: as `strzoo.load`.
    """
    _check("threads", threads)
    _check("batch", batch)
    _check("lanes", lanes)
    if not (math.isfinite(tune) and tune >= 0):
        raise UsageError(f"tune is {tune}; it must be a number of seconds, 0 for fixed rules")
    wanted = spell_size(size)
    require_llvmlite()
    from strzoo.engine.runtime.model import SparseModel

    started = time.perf_counter()
    source = resolve(model, settings=settings)
    settings = source.settings
    hardware = host_hardware()
    if lanes is not None and (lanes & (lanes - 1) or lanes > hardware.lanes):
        raise UsageError(
            f"lanes is {lanes}; it must be a power of two up to {hardware.lanes}, the floats that "
            "a vector has here"
        )
    folder = settings.cache_dir / "engine" if cache else None
    builder: PlanBuilder | FileBuilder
    if isinstance(source, PlanSource):
        builder = FileBuilder.open(source.path, wanted, threads, tune, hardware, folder)
    else:
        network = open_network(source, wanted, on_step)
        count = threads or default_threads()
        builder = PlanBuilder(network, hardware, lanes or 1, count, tune, folder, on_step)
    made = SparseModel(builder, batch or 1)
    made._report = replace(made.report, seconds=time.perf_counter() - started)
    return made


def _check(name: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{name} is {value!r}; it must be a whole number, at least 1")


class PlanBuilder:
    """Makes a network's plans when they are first needed: from the cache, else from its graph."""

    def __init__(
        self,
        network: Network,
        hardware: Hardware,
        images: int,
        threads: int,
        tune: float,
        folder: Path | None,
        on_step: Callable[[str], object] = log.info,
    ) -> None:
        from strzoo.engine.storage.plan_cache import PlanCache

        self.images, self.threads, self.tuned = images, threads, tune
        self.name, self.source = network.name, network.content
        self.metadata: dict[str, str] = {}
        self.hardware = hardware
        self._network, self._folder, self._on_step = network, folder, on_step
        self._cache = PlanCache(folder, hardware)
        self._graph: Graph | None = None

    def build(self, images: int, threads: int) -> Built:
        """The program for that many images that go together and that many threads."""
        from strzoo.engine.runtime.model import Built
        from strzoo.engine.storage.plan_cache import PlanKey

        key = PlanKey(self._network.identity, images, threads, self.tuned)
        found = self._cache.find(key)
        if found is not None:
            self.metadata = dict(found.metadata)
            planned = found.plans[0]
        else:
            planned = self._plan(images, threads)
            self._cache.keep(key, lambda: self._describe(planned))
        self._on_step("generating machine code")
        return Built(load_program(planned, self.hardware, self._folder), planned, found is not None)

    def release(self, *, finished: bool) -> None:
        """Let go of what can be had again, and with `finished` of everything."""
        if finished or self._network.kept:
            self._graph = None
        if finished and not self._network.kept:
            self._network = replace(self._network, read=_refuse)

    def _plan(self, images: int, threads: int) -> ThreadedPlan:
        from strzoo.engine.lowering.choices import choose_tilings, list_choices, list_problems
        from strzoo.engine.lowering.plan import make_plan
        from strzoo.engine.passes import simplify
        from strzoo.engine.storage.plan_files import ThreadedPlan

        if self._graph is None:
            self._on_step(f"reading {self.name}")
            graph, self.metadata = self._network.read()
            self._graph = simplify(graph)
        graph = self._graph
        self._on_step("planning")
        problems = list_problems(graph, self.hardware, images, threads)
        if self.tuned:
            from strzoo.engine.tuning import tune_tilings

            self._on_step(f"measuring layers for up to {self.tuned:g} s")
            tilings = tune_tilings(graph, self.hardware, images, threads, self.tuned)
        else:
            tilings = choose_tilings(problems, self.hardware)
        plan = make_plan(graph, self.hardware, images, tilings, threads)
        choices = list_choices(graph, self.hardware, problems, tilings, plan.chosen)
        return ThreadedPlan(plan, threads, choices)

    def _describe(self, planned: ThreadedPlan) -> PlanFile:
        from strzoo.engine.storage.plan_files import PlanFile

        return PlanFile(
            self.name,
            self.source,
            planned.threads,
            planned.plan.images,
            self.tuned,
            self.hardware,
            (planned,),
            self.metadata,
        )


def _refuse() -> Any:
    raise AssertionError("the network was released: all its plans are made")


class FileBuilder:
    """Gives the plans of a `.strz` file."""

    def __init__(
        self, content: PlanFile, threads: int | None, hardware: Hardware, folder: Path | None
    ) -> None:
        self.images, self.threads = content.images, threads or content.threads
        self.tuned, self.name, self.source = content.tuned, content.model, content.source
        self.metadata = dict(content.metadata)
        self.hardware, self._folder = hardware, folder
        self._plans = list(content.plans)

    @classmethod
    def open(
        cls,
        path: Path,
        size: tuple[int, ...] | None,
        threads: int | None,
        tune: float,
        hardware: Hardware,
        folder: Path | None,
    ) -> FileBuilder:
        """Errors as `compile`."""
        from strzoo.engine.storage.plan_files import read_plans

        content = read_plans(path, hardware)
        shape = content.plans[0].plan.input_shape
        if size is not None and size != shape[-len(size) :]:
            raise UsageError(
                f"{path} was compiled for images of {'x'.join(map(str, shape))}, "
                f"{'x'.join(map(str, size))} is asked for; compile the model again"
            )
        if tune:
            raise UsageError(f"{path} is compiled already; tune when compiling the model")
        return cls(content, threads, hardware, folder)

    def build(self, images: int, threads: int) -> Built:
        """The plan for that many images; of several, the one for as many threads."""
        from strzoo.engine.runtime.model import Built

        fitting = [entry for entry in self._plans if entry.plan.images == images]
        if not fitting:
            raise StrzooError(f"the file has no plan for {images} images; compile the model again")
        planned = min(fitting, key=lambda entry: abs(entry.threads - threads))
        return Built(load_program(planned, self.hardware, self._folder), planned, True)

    def release(self, *, finished: bool) -> None:
        """Let go of the plans once they have become programs."""
        if finished:
            self._plans.clear()


def load_program(planned: ThreadedPlan, hardware: Hardware, folder: Path | None) -> Any:
    """The plan with machine code."""
    from strzoo.engine.runtime.run import Program
    from strzoo.engine.storage.machine_code import compile_kernels

    code = compile_kernels(planned.plan.kernels, hardware, folder)
    return Program(planned.plan, code)
