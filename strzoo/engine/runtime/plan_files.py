"""Programs from a `.strz` file."""

from __future__ import annotations

from pathlib import Path

from strzoo.engine.hardware import Hardware
from strzoo.engine.runtime.model import Built
from strzoo.engine.runtime.run import Program
from strzoo.engine.storage.machine_code import compile_kernels
from strzoo.engine.storage.plan_files import PlanFile, read_plans
from strzoo.errors import StrzooError, UsageError


class PlanFileBuilder:
    """Builds the programs whose plans a `.strz` file holds; see `ProgramBuilder`.

    Args:
        content: of the file.
        threads: that one call uses; None for what the file was made for.
        hardware: the processor.
        folder: keeps machine code; None keeps none.
    """

    def __init__(
        self, content: PlanFile, threads: int | None, hardware: Hardware, folder: Path | None
    ) -> None:
        self.images, self.threads = content.images, threads or content.threads
        self.tuned, self.name, self.source = content.tuned, content.model, content.source
        self.metadata, self.fixed = dict(content.metadata), content.fixed
        self.hardware, self._folder = hardware, folder
        self._plans = list(content.plans)

    @classmethod
    def open(
        cls,
        path: Path,
        size: tuple[int, ...] | None,
        threads: int | None,
        hardware: Hardware,
        folder: Path | None,
    ) -> PlanFileBuilder:
        """Read the file `path`; `size` is that of the images that the caller expects, if any.

        Raises:
            StrzooError: the file cannot be read.
            IntegrityError: it is damaged, or made by another version or for another processor.
            UsageError: it was compiled for images of another size.
        """
        content = read_plans(path, hardware)
        shape = content.plans[0].plan.input_shape
        if size is not None and size != shape[-len(size) :]:
            raise UsageError(
                f"{path} was compiled for images of {'x'.join(map(str, shape))}, "
                f"{'x'.join(map(str, size))} is asked for; compile the model again"
            )
        return cls(content, threads, hardware, folder)

    def build(self, images: int, threads: int) -> Built:
        """The program for groups of `images` images; of several plans, the one for the nearest
        number of threads."""
        fitting = [entry for entry in self._plans if entry.plan.images == images]
        if not fitting:
            raise StrzooError(f"the file has no plan for {images} images; compile the model again")
        planned = min(fitting, key=lambda entry: abs(entry.threads - threads))
        code = compile_kernels(planned.plan.kernels, self.hardware, self._folder)
        return Built(Program(planned.plan, code), planned, True)

    def release(self, *, finished: bool) -> None:
        """Let go of the plans once all programs are built."""
        if finished:
            self._plans.clear()
