"""Runner: a model of any kind as one thing that turns pixels into logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strzoo.borders import shorten_cause
from strzoo.data.images import check_crop
from strzoo.data.loading import explained_deaths, fit_pixels, normalise
from strzoo.data.preprocessing import check_preprocessing
from strzoo.devices import is_out_of_memory
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.outputs import BACKGROUNDS, OutputReader
from strzoo.evaluation.results import PRECISIONS
from strzoo.zoo.registry import ModelCard, Preprocessing

ENGINES = ("torch", "onnxruntime", "sparse")


@dataclass(frozen=True)
class RunnerOptions:
    """How a model is to be run.

    Args:
        engine: one of `ENGINES`; by default what is made for that kind of model.
        format: "str" or "dense"; by default dense for an id, and what a file holds.
        device: "cpu", "cuda", "cuda:1"; by default a GPU if there is one (a network's own).
        precision: "fp32", "tf32", "bf16", "fp16"; "auto" is fp32 on the CPU and tf32 on a GPU.
        compile: torch.compile the network.
        channels_last: memory layout of weights and images.
        providers: execution providers of onnxruntime.
        preprocessing: instead of the model's own.
        output: name of the output that answers, of an ONNX file with several.
        background: where a class that no data set has is: "first", "last" or "none"; by default
            it is recognised in networks of 1001 classes.

    Raises:
        UsageError: a value is not valid.
    """

    engine: str | None = None
    format: str | None = None
    device: str | torch.device | None = None
    precision: str = "auto"
    compile: bool = False
    channels_last: bool = True
    providers: Sequence[str] = ()
    preprocessing: Preprocessing | None = None
    output: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.engine not in (None, *ENGINES):
            raise UsageError(f"engine {self.engine!r} is not one of {', '.join(ENGINES)}")
        if self.background not in (None, *BACKGROUNDS):
            raise UsageError(
                f"background {self.background!r} is not one of {', '.join(BACKGROUNDS)}"
            )
        if self.preprocessing is not None:
            check_preprocessing(self.preprocessing)


@dataclass(frozen=True)
class Runner:
    """A model ready to run.

    Args:
        forward: takes inputs as `prepare` makes them and gives what the network puts out, on
            `device`; raises what its code raises if it cannot run them.
        reader: makes class scores of it.
        preprocessing: of evaluation; `states_preprocessing` tells a stated one from a guess.
        takes_bytes: the network normalises by itself.
        fixed_batch: the one batch size it takes.
        piece_pixels: how many pixels at once are fastest, of all images together.
        eager: the network itself where `forward` is compiled, for one size of batch.
        versions: name and version of the libraries that run it.
    """

    name: str
    forward: Callable[[Tensor], Any]
    reader: OutputReader
    device: torch.device
    precision: str
    preprocessing: Preprocessing
    weights_sha256: str
    card: ModelCard | None = None
    channels_last: bool = True
    takes_bytes: bool = False
    fixed_batch: int | None = None
    piece_pixels: int | None = None
    class_names: tuple[str, ...] = ()
    states_preprocessing: bool = False
    eager: Callable[[Tensor], Any] | None = None
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def engine(self) -> str:
        """The library that computes, for messages."""
        return self.versions[0][0] if self.versions else "torch"

    def prepare(self, pixels: Tensor) -> Tensor:
        """The network's input from uint8 [B, H, W, 3] on the device."""
        if self.takes_bytes:
            return fit_pixels(pixels, self.preprocessing)
        return normalise(pixels, self.preprocessing, channels_last=self.channels_last)

    def run(self, inputs: Tensor) -> Tensor:
        """Class scores float32 [B, classes] on the device, for inputs as `prepare` makes them.

        Raises:
            UsageError: the network cannot run them, or its output is not class scores.
            RuntimeError: there is no memory for so many (`devices.is_out_of_memory`).
        """
        try:
            with explained_deaths():
                scores = self.reader(self.forward(inputs))
        except StrzooError:
            raise
        except Exception as error:  # whatever the network's own code raises
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"{self.name} does not run on images of shape {tuple(inputs.shape)} "
                f"({shorten_cause(error)})"
            ) from error
        if len(scores) != len(inputs):
            raise UsageError(
                f"{self.name} gives class scores for {len(scores)} images when it is given "
                f"{len(inputs)}; it must give one row for each (views of an image are averaged in "
                "the network)"
            )
        return scores

    def run_at_once(self, inputs: Tensor) -> Tensor:
        """As `run`; what does not fit in the memory is a StrzooError too."""
        try:
            return self.run(inputs)
        except RuntimeError as error:
            raise StrzooError(
                f"{self.name}: {self.engine} is out of memory with {len(inputs)} images at once; "
                "use smaller batches"
            ) from error

    def most_at_once(self, batch: int) -> int:
        """How many images of a batch `forward` should be given at once."""
        if self.fixed_batch or self.piece_pixels is None:
            return self.fixed_batch or batch
        return min(max(1, self.piece_pixels // self.preprocessing.crop**2), batch)

    def count_classes(self) -> int:
        """Outputs of the network, by running one black image; it also warms up.

        Raises:
            UsageError: the network does not run on images of this size.
        """
        crop = self.preprocessing.crop
        check_crop(crop)
        pixels = torch.zeros(self.fixed_batch or 1, crop, crop, 3, dtype=torch.uint8)
        try:
            run = self.eager or self.forward
            shape = self.reader(run(self.prepare(pixels.to(self.device)))).shape
        except StrzooError:
            raise
        except Exception as error:  # whatever the network's own code raises
            cause = shorten_cause(error)
            raise UsageError(
                f"{self.name} does not run on images of {crop}x{crop} pixels "
                f"({cause}); "
                + (
                    "image files have three channels, or one as grey images"
                    if "channels" in cause
                    else "give its size with --crop"
                )
            ) from error
        return int(shape[1])


def check_finite(values: np.ndarray, runner: Runner) -> None:
    """Raise a StrzooError if outputs or losses hold NaN or infinity: none of them is a result."""
    if not np.isfinite(values).all():
        cause = "its weights are NaN, infinite or too large (training diverged, damaged file)"
        if runner.precision in ("tf32", "bf16", "fp16"):
            cause = "try --precision fp32"
        raise StrzooError(
            f"{runner.name} in {runner.precision} gives outputs that are not finite; {cause}"
        )
