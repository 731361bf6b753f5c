"""Programs from a `.strz` file. With machine code from the file, llvmlite is not needed."""

from __future__ import annotations

from pathlib import Path

from strzoo.engine.requirement import expect_llvmlite, has_llvmlite
from strzoo.engine.runtime.memory import aligned
from strzoo.engine.runtime.model import Built
from strzoo.engine.runtime.run import Program
from strzoo.engine.runtime.threads import Code
from strzoo.engine.storage.host import known_hardware
from strzoo.engine.storage.native_code import LoadedCode
from strzoo.engine.storage.plan_files import (
    PlanFile,
    group_plans,
    holds_code,
    read_plans,
    read_trusted,
)
from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.sealed_files import shown


class PlanFileBuilder:
    """Builds the programs whose plans a `.strz` file holds; see `ProgramBuilder`.

    Args:
        content: of the file.
        threads: that one call uses; None for what the file was made for.
        folder: keeps machine code; None keeps none.
    """

    def __init__(self, content: PlanFile, threads: int | None, folder: Path | None) -> None:
        self.images, self.threads = content.images, threads or content.threads
        self.tuned, self.name, self.source = content.tuned, content.model, content.source
        self.metadata, self.fixed = dict(content.metadata), content.fixed
        self.names = content.names
        self.hardware, self._folder = content.hardware, folder
        self._plans, self._division = list(content.plans), content.division
        self._code = None if content.code is None else LoadedCode(content.code.block)

    @classmethod
    def open(
        cls,
        path: Path | bytes,
        size: tuple[int, ...] | None,
        threads: int | None,
        folder: Path | None,
        *,
        native: bool = False,
    ) -> PlanFileBuilder:
        """Read a file.

        Args:
            path: of the file, or its bytes.
            size: of the images that the caller expects, if any.
            threads: that one call uses; None for what the file was made for.
            folder: keeps machine code; None keeps none.
            native: whether the file is trusted: its machine code is run, if it has any for this
                processor, and its plans are not checked.

        Raises:
            StrzooError: the file cannot be read, or llvmlite is needed and not installed.
            IntegrityError: it is damaged, or made by another version or for another processor.
            UsageError: it was compiled for images of another size.
        """
        content = read_trusted(path, aligned) if native else None
        if content is None:
            if not native and not has_llvmlite() and holds_code(path):
                raise StrzooError(
                    f"{shown(path)} holds machine code, which runs if you trust who made it: pass "
                    f"native=True; otherwise the engine needs llvmlite: {install_advice('engine')}"
                )
            expect_llvmlite()
            content = read_plans(path, known_hardware(folder), aligned)
        shape: tuple[int | None, ...]
        if content.division is None:
            shape = content.plans[0].plan.input_shape
        else:
            shape = content.division.inputs[0].shape[1:]
        if size is not None and size != shape[-len(size) :]:
            raise UsageError(
                f"{shown(path)} was compiled for images of {'x'.join(map(str, shape))}, "
                f"{'x'.join(map(str, size))} is asked for; compile the model again"
            )
        return cls(content, threads, folder)

    def build(self, images: int, threads: int) -> Built:
        """The programs for groups of `images` images; of several plans, those for the nearest
        number of threads."""
        if self._division is not None and not self._division.sections:
            return Built((), (), True, self._division)
        fitting = [group for group in group_plans(self._plans) if group[0].plan.images == images]
        if not fitting:
            raise StrzooError(f"the file has no plan for {images} images; compile the model again")
        planned = min(fitting, key=lambda group: abs(group[0].threads - threads))
        code: Code | None = self._code
        if code is None:
            from strzoo.engine.storage.machine_code import compile_kernels

            kernels = [kernel for entry in planned for kernel in entry.plan.kernels]
            code = compile_kernels(kernels, self.hardware, self._folder)
        programs = tuple(Program(entry.plan, code) for entry in planned)
        return Built(programs, planned, True, self._division)

    def release(self, *, finished: bool) -> None:
        """Let go of the plans once all programs are built."""
        if finished:
            self._plans.clear()
