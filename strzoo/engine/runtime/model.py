"""SparseModel: a compiled network that is called like a function."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import Shape
from strzoo.engine.ir.parts import Port
from strzoo.engine.results import CompileReport, PrecisionReport
from strzoo.engine.runtime.run import Program, Runner, count_concurrent
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
    from torch import Tensor

    from strzoo.hub.source import PlanSource
    from strzoo.settings import Settings

    Images = TypeVar("Images", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class Built:
    """A program, the plan it was made of, and whether that came from a file."""

    program: Program
    planned: ThreadedPlan
    cached: bool


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
        """The program for groups of `images` images that `threads` threads run together."""

    def release(self, *, finished: bool) -> None:
        """Let go of what can be had again; with `finished`, when all programs are built, of all."""


def describe_plans(builder: ProgramBuilder, plans: tuple[ThreadedPlan, ...]) -> PlanFile:
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
        self._runner = Runner(builder.threads)
        # Keys of the programs: all threads work on one image, or each on a group of its own.
        self._cooperative, self._concurrent = (1, builder.threads), (builder.images, 1)
        many = count_concurrent(batch, builder.images, builder.threads)
        key = self._concurrent if many else self._cooperative
        first = self._build(key)
        plan = first.program.plan
        self._input_shape, self._output_shape = plan.input_shape, plan.output_shape
        self._report = CompileReport(
            model=builder.name,
            input_shape=plan.input_shape,
            output_shape=plan.output_shape,
            threads=builder.threads,
            images=builder.images,
            layers=first.planned.layers,
            constants=plan.constants.nbytes,
            arena=plan.arena,
            processor=" ".join(builder.hardware.identity.split()[:2]),
            lanes=builder.hardware.lanes,
            tuned=builder.tuned,
            cached=first.cached,
            seconds=time.perf_counter() - started,
            fixed=builder.fixed,
        )

    @property
    def input_shape(self) -> Shape:
        """Channels, height, width of one image."""
        return self._input_shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output for one image."""
        return self._output_shape

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The network's inputs: name, type and shape, None where a size is open."""
        return (Port(self._builder.names[0], "float32", (None, *self._input_shape)),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The network's outputs: name, type and shape, None where a size is open."""
        return (Port(self._builder.names[1], "float32", (None, *self._output_shape)),)

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
        from strzoo.hub.source import PlanSource

        return PlanSource(settings, compiled=self)

    def describe(self) -> str:
        """The report as text: a line per layer, then the totals."""
        return self._report.describe()

    def __repr__(self) -> str:
        shapes = " -> ".join("x".join(map(str, s)) for s in (self.input_shape, self.output_shape))
        return f"<SparseModel {self._builder.name}: {shapes}, {self.threads} threads>"

    def __call__(self, images: Images) -> Images:
        """The output fp32 [N, ...] for `images` [N, C, H, W]; other floats are converted.

        Raises:
            UsageError: `images` has another shape or type, or is on another device.
        """
        array, finish = self._accept(images)
        result = np.empty((len(array), *self._output_shape), np.float32)
        if len(array):
            many = count_concurrent(len(array), self._builder.images, self._builder.threads)
            concurrent = self._build(self._concurrent).program if many else None
            rest = self._build(self._cooperative).program if many < len(array) else concurrent
            assert rest is not None
            self._runner.run(rest, array, result, concurrent)
        return finish(result)

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
        plans = tuple(self._build(key).planned for key in keys)
        kernels = [kernel for entry in plans for kernel in entry.plan.kernels]
        if any(isinstance(kernel, StoredKernel) for kernel in kernels):
            raise StrzooError(
                f"{self.name} was loaded with the machine code of its file; copy that file, or "
                "load it without native=True"
            )
        content = describe_plans(self._builder, plans)
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
                planned = replace(built.planned, plan=built.program.plan)
                self._programs[key] = replace(built, planned=planned)
                all_built = {self._cooperative, self._concurrent} <= {*self._programs}
                self._builder.release(finished=all_built)
            return self._programs[key]

    def _accept(self, images: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
        """The images as contiguous fp32, and the function that turns a result into their kind."""
        expected = ", ".join(map(str, ("N", *self._input_shape)))
        torch = sys.modules.get("torch")
        finish: Callable[[np.ndarray], Any] = _itself
        if torch is not None and isinstance(images, torch.Tensor):
            if images.device.type != "cpu":
                raise UsageError(f"the images are on {images.device}; pass images.cpu()")
            if not images.dtype.is_floating_point:
                raise UsageError(f"images of {images.dtype}; expected floats [{expected}]")
            images, finish = images.detach().float().numpy(), torch.from_numpy
        if not isinstance(images, np.ndarray):
            raise UsageError(
                f"a {type(images).__name__} instead of images: expected a NumPy array or a torch "
                f"tensor of floats [{expected}]"
            )
        if images.dtype.kind != "f":
            raise UsageError(f"images of {images.dtype}; expected floats [{expected}]")
        if images.ndim != 4 or images.shape[1:] != self._input_shape:
            shown = ", ".join(map(str, images.shape))
            raise UsageError(f"images of shape [{shown}]; expected [{expected}]")
        return np.ascontiguousarray(images, np.float32), finish


def _itself(result: np.ndarray) -> np.ndarray:
    return result
