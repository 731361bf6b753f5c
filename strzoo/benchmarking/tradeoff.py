"""tradeoff: what sparsity costs in accuracy and buys in time, for one network on this machine."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from strzoo.arguments import checked
from strzoo.benchmarking.benchmark import describe_machine, torch_threads
from strzoo.benchmarking.tradeoff_data import TradeoffData, open_data
from strzoo.benchmarking.tradeoff_results import ENGINES, TradeoffResult, recommend
from strzoo.benchmarking.tradeoff_timing import MeasuredNetwork, list_points, time_networks
from strzoo.data.calibration import Images
from strzoo.data.imageset import ImageSet
from strzoo.engine.hardware import check_threads
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.evaluate import Batches, evaluate
from strzoo.evaluation.results import EvalResult
from strzoo.export.export_onnx import export_onnx
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import Source
from strzoo.pruning.images import load_calibration
from strzoo.pruning.prune import METHODS, prune
from strzoo.settings import Settings
from strzoo.training.layer_state import measure_layers, total_sparsity
from strzoo.training.recipes import load_recipe
from strzoo.training.train import train

log = logging.getLogger(__name__)

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)


@checked
def tradeoff(
    model: Model,
    data: Images,
    *,
    validation: str | os.PathLike[str] | ImageSet | Batches | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    method: str = "obc",
    epochs: int = 0,
    images: int = 512,
    max_loss: float = 1.0,
    engines: Sequence[str] = ENGINES,
    batch: int = 1,
    threads: int | None = None,
    runs: int = 30,
    workers: int | None = None,
    settings: Settings | None = None,
    on_step: Callable[[str], object] = log.info,
) -> TradeoffResult:
    """Accuracy and measured latency of a network at several sparsities, and which one pays.

    At each sparsity the network is pruned at once (`strzoo.prune`), or fine-tuned to it for
    `epochs` by the recipe `finetune`; evaluated; exported; and timed on onnxruntime, on
    onnxruntime in int8 and on the sparse engine. All are timed in turn, so that a slow spell of
    the machine hits all alike.

    Args:
        model: a model id, a checkpoint file, a run folder, a `Checkpoint` or an `nn.Module`.
        data: a folder of images (`train` and `val` with a folder per class, or the folders alone,
            of which a part is held out), "digits" (bundled), or an `ImageSet` or a tensor to
            calibrate on.
        validation: labelled images to evaluate on, if they are not found in `data`.
        sparsities: fractions of zeros; the given network is always among them.
        method: how to prune at once, as in `prune`.
        epochs: of fine-tuning at each sparsity, for a model id or a file and a folder or "digits";
            0 prunes at once.
        images: to calibrate on.
        max_loss: percentage points of top-1 that may be lost for speed.
        engines: of "onnxruntime", "int8" and "sparse"; what is not installed is left out.
        batch: images at once.
        threads: by default torch's number of threads.
        runs: timed runs of each, after three untimed ones.
        workers: processes that decode images; by default one per core.
        settings: cache folder, registries, network switches; from the environment by default.
        on_step: told what happens next, in one line.

    Returns:
        A point for each sparsity and engine, and one recommendation with its reason.

    Raises:
        UsageError: an argument is not valid, or there are no validation images.
        StrzooError and its subclasses: the model or the images cannot be had or read.
        VerificationError: two engines disagree about a network's output.
    """
    started = time.perf_counter()
    sparsities, engines = [float(one) for one in sparsities], list(engines)
    _check(sparsities, method, engines, epochs=epochs, batch=batch, runs=runs, max_loss=max_loss)
    threads = torch.get_num_threads() if threads is None else threads
    check_threads(threads)
    source = resolve(model, settings=settings)
    on_step("loading the network")
    given = source.build_dense()
    with tempfile.TemporaryDirectory(prefix="strzoo-") as temporary, torch_threads(threads):
        folder = Path(temporary)
        opened = open_data(source, data, validation, folder / "data")
        notes = list(opened.notes)
        held = opened.validation
        size = tuple(held.images.shape[1:]) if isinstance(held, ImageSet) else None
        calibration = load_calibration(source, opened.data, images, size)
        makers = _Maker(
            source, opened, calibration, method, epochs, images, folder, workers, on_step
        )
        measure = _Measure(source, opened, engines, calibration, folder, workers, notes, on_step)
        begun = _zeros(given)
        for wanted in sorted({0.0, *sparsities}):
            if 0 < 100 * wanted <= begun:
                notes.append(f"{100 * wanted:g} % is left out: the network has {begun:.1f} %")
            else:
                measure.add(makers.make(wanted) if wanted else given)
        first = measure.results[0]
        on_step("timing")
        shape = (batch, *calibration.shape[1:])
        times = time_networks(measure.networks, shape, threads, runs, notes, on_step)
    low, high = first.interval
    points = list_points(measure.networks, times)
    return TradeoffResult(
        model=source.name,
        how=f"fine-tuned for {epochs} epochs each" if epochs else f"pruned at once ({method})",
        points=points,
        recommendation=recommend(points, max_loss, first.images, (high - low) / 2),
        max_loss=max_loss,
        images=first.images,
        margin=(high - low) / 2,
        batch=batch,
        threads=threads,
        machine=describe_machine(),
        versions={"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        notes=tuple(dict.fromkeys(notes)),
        seconds=time.perf_counter() - started,
    )


def _check(
    sparsities: Sequence[float],
    method: str,
    engines: Sequence[str],
    *,
    epochs: int,
    batch: int,
    runs: int,
    max_loss: float,
) -> None:
    if not sparsities or not all(0 <= one < 1 for one in sparsities):
        raise UsageError(f"sparsities {list(sparsities)} are not fractions in [0, 1), as 0.8")
    if method not in METHODS:
        raise UsageError(f"method {method!r} is not one of {', '.join(METHODS)}")
    for engine in engines:
        if engine not in ENGINES:
            raise UsageError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    if epochs < 0 or batch < 1 or runs < 1 or not max_loss >= 0:
        raise UsageError(
            "batch and runs must be at least 1, epochs and max_loss not negative; they are "
            f"{batch}, {runs}, {epochs} and {max_loss:g}"
        )


def _zeros(network: nn.Module) -> float:
    """Percent of zeros."""
    return total_sparsity(measure_layers(network))


@dataclass(frozen=True)
class _Maker:
    """Makes the network of a sparsity."""

    source: Source
    data: TradeoffData
    calibration: Tensor
    method: str
    epochs: int
    images: int
    folder: Path
    workers: int | None
    on_step: Callable[[str], object]

    def make(self, sparsity: float) -> nn.Module:
        if not self.epochs:
            self.on_step(f"pruning to {100 * sparsity:g} %")
            return prune(
                self.source, self.calibration, sparsity, method=self.method, images=self.images,
                on_step=lambda step: self.on_step(f"{100 * sparsity:g} %: {step}"),
            ).network.requires_grad_(False)  # fmt: skip
        self.on_step(f"fine-tuning to {100 * sparsity:g} %")
        begin = self.source.card.id if self.source.card else self.source.path
        dataset, data = self.data.training
        if begin is None or data is None:
            raise UsageError(
                "epochs are for a model id or a checkpoint file, and a folder of images or "
                "'digits'; leave them out to prune at once"
            )
        output = self.folder / f"run{100 * sparsity:g}"
        config = replace(
            load_recipe("finetune"), start_from=str(begin), dataset=dataset, data=data or None,
            validation=self.data.folder, target_sparsity=sparsity, epochs=self.epochs,
            warmup_epochs=min(1.0, self.epochs / 5), workers=self.workers, tensorboard=False,
            architecture=self.source.settings.architecture, output=str(output),
        )  # fmt: skip
        train(config, settings=self.source.settings)
        return resolve(output / "best_dense.pth", settings=self.source.settings).build_dense()


@dataclass
class _Measure:
    """Evaluates and exports the networks; what cannot be done is a note."""

    source: Source
    data: TradeoffData
    engines: Sequence[str]
    calibration: Tensor
    folder: Path
    workers: int | None
    notes: list[str]
    on_step: Callable[[str], object]
    networks: list[MeasuredNetwork] = field(default_factory=list)
    results: list[EvalResult] = field(default_factory=list)

    def add(self, network: nn.Module) -> None:
        made = MeasuredNetwork(_zeros(network))
        shown = f"{made.sparsity:.0f} %"
        self.on_step(f"{shown}: evaluating")
        result = self._evaluate(network)
        self.on_step(f"{shown}: exporting")
        size = tuple(self.calibration.shape[1:])
        file = self.folder / f"{len(self.networks)}.onnx"
        export_onnx(network, file, input_size=size, images=self.calibration[:8])
        # The first is what all others are compared with.
        if "onnxruntime" in self.engines or not self.networks:
            made.add("onnxruntime", file, result.top1)
        if "sparse" in self.engines:
            made.add("sparse", file, result.top1)
        if "int8" in self.engines:
            try:
                small = file.with_suffix(".int8.onnx")
                export_onnx(
                    network, small, input_size=size, images=self.calibration, precision="int8",
                    tolerance=math.inf,
                )  # fmt: skip
                self.on_step(f"{shown}: evaluating int8")
                made.add("int8", small, self._evaluate(small).top1)
            except StrzooError as error:
                self.notes.append(f"{shown} in int8 is left out: {error}")
        self.networks.append(made)
        self.results.append(result)

    def _evaluate(self, model: nn.Module | Path) -> EvalResult:
        return evaluate(
            model, self.data.validation, workers=self.workers,
            preprocessing=self.source.preprocessing,
        )  # fmt: skip
