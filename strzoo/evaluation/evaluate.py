"""evaluate: exact top-1 and top-5 of a network, a checkpoint or an ONNX file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strzoo.arguments import checked
from strzoo.data.batches import describe, read_batch
from strzoo.data.imageset import ImageSet
from strzoo.data.layouts import find_samples
from strzoo.data.loading import DECODERS, default_workers
from strzoo.data.preprocessing import CIFAR_MEAN, CIFAR_STD, fit_channels
from strzoo.data.samples import single_labels
from strzoo.distributed import join_group
from strzoo.errors import UsageError
from strzoo.evaluation.distributed import Run, describe_device, list_versions
from strzoo.evaluation.loop import LoopOptions
from strzoo.evaluation.metric import rank
from strzoo.evaluation.opener import open_runner
from strzoo.evaluation.results import (
    EvalResult,
    as_tensor,
    find_hits,
)
from strzoo.evaluation.runner import Runner, RunnerOptions, check_finite
from strzoo.hub.resolve import Model, resolve
from strzoo.settings import Settings
from strzoo.zoo.registry import Preprocessing

Batches = Iterable[Any]
_BATCH = {"cpu": 64, "cuda": 256}  # larger ones are not faster on the CPU


@checked
def evaluate(
    model: Model,
    data: str | os.PathLike[str] | ImageSet | Batches,
    *,
    labels: str | os.PathLike[str] | None = None,
    real: str | os.PathLike[str] | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    format: str | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    compile: bool = False,
    channels_last: bool = True,
    decoder: str = "pil",
    providers: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    skip_broken: bool = False,
    resume: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    engine: str | None = None,
    output: str | None = None,
    background: str | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> EvalResult:
    """Top-1 and top-5 of `model` on `data`, counted exactly whatever the batch size, the number
    of workers or of processes (started by torchrun).

    Args:
        model: a model id, a checkpoint, ONNX or .strz file, a `Checkpoint`, a `SparseModel`, or
            any network (run in evaluation mode on its own device, then put back as it was).
        data: a folder, tar or parquet file (docs/evaluation.md lists the layouts), an `ImageSet`,
            or batches of images and labels as loaders give them: pairs, or dictionaries such as
            {"pixel_values": images, "labels": labels}. Floats [N, 3, H, W] are taken for
            normalised already; bytes and PIL images are prepared as the model's images are.
        labels: the label file of a flat folder; by default looked for in and beside it.
        real: a file of ReaL labels, to be used instead of the data set's.
        split: which split of a data set with several, by its name; by default the one to evaluate
            on (validation, else test).
        batch_size: images at once; by default 64 on the CPU, 256 on a GPU.
        workers: processes that decode; by default one per core. 0 decodes in this process.
        format: "str" or "dense"; by default dense for an id, and what a file holds.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU if there is one.
        precision: "fp32", "tf32", "bf16" or "fp16"; "auto" is fp32 on the CPU, tf32 on a GPU.
        compile: torch.compile the network.
        channels_last: memory layout of weights and images.
        decoder: "pil", or "device" to decode and resize JPEGs on the device; the difference that
            makes is measured and reported.
        providers: onnxruntime execution providers, for an ONNX file.
        preprocessing: instead of the model's own.
        skip_broken: count unreadable images as wrong and list them, instead of an error.
        resume: a file to keep what is done in; if it is there, the run goes on from it. It is
            removed when the run is complete.
        settings: cache folder, registries, network switches; from the environment by default.
        engine: "torch", "onnxruntime" or "sparse" (strzoo[engine]; docs/engine.md); by default
            torch, or onnxruntime for an ONNX file.
        output: name of the output that answers, for an ONNX file with several.
        background: "first", "last" or "none": where a class is that no data set has; by default
            recognised in networks of 1001 classes.
        on_progress: called with the images done and to do (of this process) after each batch.

    Returns:
        Counts, accuracies in percent, the mean cross-entropy, and what was run on what.

    Raises:
        UsageError: an argument is not valid, the data is empty, of no known layout, or does not
            fit the network.
        BrokenImageError: an image cannot be read; the message names it.
        StrzooError and its subclasses: the model or the data cannot be had or read.
    """
    started = time.perf_counter()
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")
    if decoder not in DECODERS:
        raise UsageError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
    options = RunnerOptions(
        engine,
        format,
        device,
        precision,
        compile,
        channels_last,
        providers,
        preprocessing,
        output,
        background,
    )
    source = resolve(model, format=format, settings=settings)
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(open_runner(source, options))
        if not isinstance(data, str | os.PathLike):
            _refuse(
                labels=labels is not None, real=real is not None, split=split is not None,
                resume=resume is not None, skip_broken=skip_broken, decoder=decoder != "pil",
            )  # fmt: skip
            return _evaluate_tensors(runner, data, batch_size or _BATCH["cuda"])
        group = stack.enter_context(join_group())
        classes = runner.count_classes()
        find = partial(
            find_samples, data, labels=labels, real=real, split=split,
            class_names=runner.class_names, limits=source.settings.limits,
        )  # fmt: skip
        try:
            samples = find(classes)
        except UsageError:  # data with as many classes as outputs have no background
            if not runner.reader.keep_background():
                raise
            classes = runner.count_classes()
            samples = find(classes)
        if samples.small and not runner.states_preprocessing:
            usual = replace(
                runner.preprocessing, resize=32, crop=32, mean=CIFAR_MEAN, std=CIFAR_STD
            )
            usual = fit_channels(usual, runner.preprocessing.channels)
            runner = replace(runner, preprocessing=usual)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", group.world))
        loop = LoopOptions(
            batch_size=batch_size or runner.fixed_batch or _BATCH[runner.device.type],
            workers=default_workers(runner.device, local) if workers is None else workers,
            decoder=decoder,
            pad=compile,
            skip_broken=skip_broken,
        )
        run = Run(runner, samples, classes, loop, group, started, on_progress)
        return run.execute(Path(resume) if resume is not None else None)


def _refuse(**given: bool) -> None:
    """Raise a UsageError for arguments that images in memory have no use for."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise UsageError(
            f"{names[0]} is for data in files; images in memory bring their labels and are taken "
            "as they are"
        )


def _evaluate_tensors(runner: Runner, data: ImageSet | Batches, batch_size: int) -> EvalResult:
    """Images in memory; floats are normalised already."""
    ranked, losses, labels = [], [], []
    for batch in _batches(data, batch_size):
        images, given = read_batch(batch, steps=runner.preprocessing)
        if not len(images):
            continue
        answers = []
        size = runner.fixed_batch or max(len(images), 1)
        for piece, some in zip(images.split(size), given.split(size), strict=True):
            padding = piece[:1].expand(
                (size if runner.fixed_batch else len(piece)) - len(piece), *piece.shape[1:]
            )
            inputs = torch.cat([piece, padding]).to(runner.device)
            scores = runner.run_at_once(inputs)[: len(piece)]
            if int(some.max()) >= scores.shape[1]:
                raise UsageError(
                    f"labels go up to {int(some.max())}; {runner.name} has {scores.shape[1]} "
                    "classes, from 0 on"
                )
            given_labels = some[:, None].to(scores.device)
            answers.append(rank(scores, given_labels, None, runner.reader))
        for best, _, loss in answers:
            ranked.append(best.cpu().numpy())
            losses.append(loss.double().cpu().numpy())
            check_finite(losses[-1], runner)
        labels.append(given.cpu().numpy())
    if not ranked:
        raise UsageError("there are no images to evaluate on")
    answered = np.concatenate(ranked)
    right = single_labels(np.concatenate(labels).tolist())
    hits = find_hits(answered, right)
    return EvalResult(
        images=len(right),
        correct_top1=int(hits[:, 0].sum()),
        correct_top5=int(hits.sum()),
        loss=float(np.concatenate(losses).mean()),
        predictions=as_tensor(answered[:, 0]),
        model=runner.name,
        weights_sha256=runner.weights_sha256,
        precision=runner.precision,
        device=describe_device(runner.device),
        batch_size=batch_size,
        ranked=as_tensor(answered),
        labels=as_tensor(right),
        notes=runner.reader.notes,
        versions={**list_versions(), **dict(runner.versions)},
    )


def _batches(data: Any, batch_size: int) -> Iterable[Any]:
    if isinstance(data, Mapping):
        return [data]
    if not isinstance(data, ImageSet):
        if not isinstance(data, Iterable) or isinstance(data, Tensor | np.ndarray):
            raise UsageError(
                f"data is {describe(data)}; expected a folder, tar or parquet file, an "
                "ImageSet, or batches of images and labels"
            )
        return data
    return zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
