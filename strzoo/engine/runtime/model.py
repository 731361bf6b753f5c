"""SparseModel: a compiled network that is called like a function."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from strzoo.arguments import checked
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Shape
from strzoo.engine.ir.parts import Division, Port
from strzoo.engine.results import CompileReport, PrecisionReport, describe_parts
from strzoo.engine.runtime.arrays import accept, one_image
from strzoo.engine.runtime.run import Program, Runner, count_concurrent
from strzoo.engine.runtime.steps import Steps
from strzoo.engine.storage.plan_files import (
    SUFFIX,
    PlanFile,
    StoredKernel,
    ThreadedPlan,
    write_plans,
)
from strzoo.errors import StrzooError, UsageError
from strzoo.files import check_destination

if TYPE_CHECKING:
    from strzoo.hub.graph_sources import PlanSource
    from strzoo.settings import Settings


@dataclass(frozen=True, eq=False)
class Built:
    """Programs, the plans they were made of, whether those came from a file, and the division of
    the network whose sections they are; None where one program is all of it."""

    programs: tuple[Program, ...]
    planned: tuple[ThreadedPlan, ...]
    cached: bool
    division: Division | None = None


class ProgramBuilder(Protocol):
    """Builds the programs of a model.

    Args:
        name: of the model, for people.
        source: SHA-256 of the file, or the bytes, that it comes from.
        metadata: what an ONNX export says about itself (docs/onnx.md).
        names: of the network's input and output, once a program was built.
        images: that go side by side in a vector where a batch has enough.
        threads: that one call uses.
        tuned: seconds that measuring could take; 0 for fixed rules.
        hardware: the processor.
        fixed: how it was brought into 16-bit fixed point, once a program was built; None for fp32.
    """

    name: str
    source: str
    metadata: dict[str, str]
    names: tuple[str, str]
    images: int
    threads: int
    tuned: float
    hardware: Hardware
    fixed: PrecisionReport | None

    def build(self, images: int, threads: int) -> Built:
        """The programs for groups of `images` images that `threads` threads run together."""

    def release(self, *, finished: bool) -> None:
        """Let go of what can be had again; with `finished`, when all programs are built, of all."""


def describe_plans(
    builder: ProgramBuilder, plans: tuple[ThreadedPlan, ...], division: Division | None
) -> PlanFile:
    """The content of a file that holds plans of a model."""
    return PlanFile(
        builder.name,
        builder.source,
        builder.threads,
        builder.images,
        builder.tuned,
        builder.hardware,
        plans,
        builder.metadata,
        builder.fixed,
        names=builder.names,
        division=division,
    )


class SparseModel:
    """A network compiled by `strzoo.compile`.

    Call it with images [N, C, H, W] of any N, as a NumPy array or a torch tensor on the CPU. It
    returns the network's output for them in fp32, of the same kind. Any number of threads may call
    it at the same time. The same images in the same batch give the same bits.
    """

    def __init__(
        self, builder: ProgramBuilder, batch: int = 1, *, started: float | None = None
    ) -> None:
        started = time.perf_counter() if started is None else started
        self._builder = builder
        self._lock = threading.Lock()
        self._programs: dict[tuple[int, int], Built] = {}
        self._steps: Steps | None = None
        self._runner = Runner(builder.threads)
        # Keys of the programs: all threads work on one image, or each on a group of its own.
        self._cooperative, self._concurrent = (1, builder.threads), (builder.images, 1)
        many = count_concurrent(batch, builder.images, builder.threads)
        key = self._concurrent if many else self._cooperative
        first = self._build(key)
        plans = [program.plan for program in first.programs]
        if first.division is not None:
            self._steps = Steps(first.division, builder.threads)
            self._inputs, self._outputs = first.division.inputs, first.division.outputs
        else:
            self._inputs = (Port(builder.names[0], "float32", (None, *plans[0].input_shape)),)
            self._outputs = (Port(builder.names[1], "float32", (None, *plans[0].output_shape)),)
        self._report = CompileReport(
            model=builder.name,
            input_shape=self.input_shape,
            output_shape=self.output_shape,
            threads=builder.threads,
            images=builder.images,
            layers=tuple(layer for entry in first.planned for layer in entry.layers),
            constants=sum(plan.constants.nbytes for plan in plans),
            arena=sum(plan.arena for plan in plans),
            processor=" ".join(builder.hardware.identity.split()[:2]),
            lanes=builder.hardware.lanes,
            tuned=builder.tuned,
            cached=first.cached,
            seconds=time.perf_counter() - started,
            fixed=builder.fixed,
            parts=describe_parts(first.division),
            alone=0.0 if first.division is None else first.division.alone,
        )

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The network's inputs: name, type and shape, None where a size is open."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The network's outputs: name, type and shape, None where a size is open."""
        return self._outputs

    @property
    def input_shape(self) -> Shape:
        """Channels, height, width of one image; of several inputs, of the first."""
        return one_image(self._inputs[0])

    @property
    def output_shape(self) -> Shape:
        """Shape of the output for one image; of several outputs, of the first."""
        return one_image(self._outputs[0])

    @property
    def threads(self) -> int:
        """Threads that one call uses."""
        return self._builder.threads

    @property
    def report(self) -> CompileReport:
        """How each layer runs, and the expected gains."""
        return self._report

    @property
    def metadata(self) -> dict[str, str]:
        """What the ONNX export says about itself (docs/onnx.md), such as preprocessing."""
        return dict(self._builder.metadata)

    @property
    def source_sha256(self) -> str:
        """SHA-256 of the file, or the bytes, that the model was compiled from."""
        return self._builder.source

    @property
    def name(self) -> str:
        """What it was compiled from, for people."""
        return self._builder.name

    def strzoo_source(self, settings: Settings) -> PlanSource:
        """This model as `strzoo.evaluate`, `predict` and `benchmark` take one."""
        from strzoo.hub.graph_sources import PlanSource

        return PlanSource(settings, compiled=self)

    def describe(self) -> str:
        """The report as text: a line per layer, then the totals."""
        return self._report.describe()

    def __repr__(self) -> str:
        shapes = " -> ".join("x".join(map(str, s)) for s in (self.input_shape, self.output_shape))
        return f"<SparseModel {self._builder.name}: {shapes}, {self.threads} threads>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as a `.strz` file, for processes on processors like this one."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(Path(folder) / f"model{SUFFIX}")
            return _load, (path.read_bytes(), self.threads)

    def __call__(self, *images: Any) -> Any:
        """The output fp32 [N, ...] for `images` [N, C, H, W]; other floats are converted.

        A network of several inputs takes them in their order, or a mapping from names to arrays. Of
        several outputs, a dictionary by name is returned.

        Raises:
            UsageError: `images` has another shape or type, or is on another device.
        """
        arrays, finish = accept(self._inputs, images)
        results = self._run(dict(zip((port.name for port in self._inputs), arrays, strict=True)))
        made = {port.name: finish(r) for port, r in zip(self._outputs, results, strict=True)}
        return made if len(made) > 1 else next(iter(made.values()))

    def _run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        first = next(iter(arrays.values()))
        if self._steps is None:
            result = np.empty((len(first), *self.output_shape), np.float32)
            self._run_section(0, first, result)
            return [result]
        none = self._steps.count_images(arrays) == 0
        if none and all(port.shape[:1] for port in self._outputs):
            return [np.empty((0, *one_image(port)), port.dtype) for port in self._outputs]
        # Programs are built when a section needs them; shapes are the same for all.
        programs = self._build(self._known_key()).programs
        return self._steps.run(arrays, programs, self._run_section)

    def _known_key(self) -> tuple[int, int]:
        """Of programs that are built already."""
        return next(iter(self._programs))

    def _run_section(self, section: int, images: np.ndarray, result: np.ndarray) -> None:
        if not len(images):
            return
        many = count_concurrent(len(images), self._builder.images, self._builder.threads)
        concurrent = self._build(self._concurrent).programs[section] if many else None
        rest = concurrent
        if many < len(images):
            rest = self._build(self._cooperative).programs[section]
        assert rest is not None
        self._runner.run(rest, images, result, concurrent)

    @checked
    def save(
        self, path: str | os.PathLike[str], *, force: bool = False, native: bool = False
    ) -> Path:
        """Write a `.strz` file, from which `strzoo.compile` starts without the network.

        Args:
            path: of the file.
            force: overwrite it if it exists.
            native: also put machine code into the file, for Linux on all x86-64 processors with
                such vectors as this one. Who trusts the file runs it without llvmlite
                (`strzoo.compile(path, native=True)`).

        Raises:
            UsageError: the name does not end in .strz, or machine code in a file is not for this
                processor or system.
            StrzooError: the file cannot be written, or exists and `force` is False; or the model
                was loaded with machine code from a file.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise UsageError(f"{path} must end in {SUFFIX}")
        check_destination(path, force=force)
        keys = dict.fromkeys((self._cooperative, self._concurrent))
        built = [self._build(key) for key in keys]
        plans = tuple(entry for each in built for entry in each.planned)
        kernels = [kernel for entry in plans for kernel in entry.plan.kernels]
        if any(isinstance(kernel, StoredKernel) for kernel in kernels):
            raise StrzooError(
                f"{self.name} was loaded with the machine code of its file; copy that file, or "
                "load it without native=True"
            )
        content = describe_plans(self._builder, plans, built[0].division)
        if native:
            from strzoo.engine.storage.machine_code import store_code

            content = replace(content, code=store_code(kernels, self._builder.hardware))
        write_plans(path, content, force=force)
        return path

    def _build(self, key: tuple[int, int]) -> Built:
        found = self._programs.get(key)
        if found is not None:
            return found
        with self._lock:
            if key not in self._programs:
                built = self._builder.build(*key)
                # The program has copied the constants to aligned memory; keep only that copy.
                planned = tuple(
                    replace(entry, plan=program.plan)
                    for entry, program in zip(built.planned, built.programs, strict=True)
                )
                self._programs[key] = replace(built, planned=planned)
                all_built = {self._cooperative, self._concurrent} <= {*self._programs}
                self._builder.release(finished=all_built)
            return self._programs[key]


def _load(content: bytes, threads: int) -> SparseModel:
    """A pickled model."""
    from strzoo.engine.runtime.load import load

    return load(content, threads)
