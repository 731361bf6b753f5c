"""evaluate: exact top-1 and top-5 of a network, a checkpoint or an ONNX file."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strzoo.data.imageset import ImageSet
from strzoo.data.layouts import find_samples
from strzoo.data.loading import DECODERS, default_workers, shard
from strzoo.data.samples import Samples, single_labels
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.loop import Loop, LoopOptions
from strzoo.evaluation.processes import Group, join_group
from strzoo.evaluation.records import (
    SUSPICIOUS_TOP1,
    DecoderCheck,
    EvalResult,
    SubsetResult,
    Timing,
    as_tensor,
    find_hits,
)
from strzoo.evaluation.runners import CIFAR_MEAN, CIFAR_STD, Model, Runner, open_runner
from strzoo.evaluation.tally import Progress, Tally, rank
from strzoo.registry import Preprocessing
from strzoo.settings import Settings
from strzoo.version import VERSION

Batches = Iterable[tuple[Tensor, Tensor]]
_BATCH = {"cpu": 64, "cuda": 256}  # larger ones are not faster on the CPU
_SAVE_EVERY = 30.0  # seconds, with `resume`
_CHECKED = 1000  # images on which another decoder is compared with PIL


def evaluate(
    model: Model,
    data: str | os.PathLike[str] | ImageSet | Batches,
    *,
    labels: str | os.PathLike[str] | None = None,
    real: str | os.PathLike[str] | None = None,
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
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> EvalResult:
    """Top-1 and top-5 of `model` on `data`, counted exactly whatever the batch size, the number
    of workers or of processes (started by torchrun).

    Args:
        model: a model id, a checkpoint or ONNX file, a `Checkpoint`, or any network (run in
            evaluation mode on its own device, then put back as it was).
        data: a folder, tar or parquet file (docs/evaluation.md lists the layouts), an `ImageSet`,
            or batches of images [N, 3, H, W] and labels [N].
        labels: the label file of a flat folder; by default looked for in and beside it.
        real: a file of ReaL labels, to be used instead of the data set's.
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
        on_progress: called with the images done and to do (of this process) after each batch.

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
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(
            open_runner(
                model,
                format=format,
                device=device,
                precision=precision,
                compile=compile,
                channels_last=channels_last,
                providers=providers,
                preprocessing=preprocessing,
                settings=settings,
            )
        )
        if not isinstance(data, str | os.PathLike):
            return _evaluate_tensors(runner, data, batch_size or _BATCH["cuda"])
        group = stack.enter_context(join_group())
        classes = runner.count_classes()
        samples = find_samples(data, classes, labels=labels, real=real)
        if samples.small and not runner.known_steps:
            steps = replace(runner.steps, resize=32, crop=32, mean=CIFAR_MEAN, std=CIFAR_STD)
            runner = replace(runner, steps=steps)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", group.world))
        options = LoopOptions(
            batch_size=batch_size or runner.fixed_batch or _BATCH[runner.device.type],
            workers=default_workers(runner.device, local) if workers is None else workers,
            decoder=decoder,
            pad=compile,
            skip_broken=skip_broken,
        )
        run = _Run(runner, samples, classes, options, group, started, on_progress)
        return run.execute(Path(resume) if resume is not None else None)


class _Run:
    """One evaluation of image files, in this process and its fellows."""

    def __init__(
        self,
        runner: Runner,
        samples: Samples,
        classes: int,
        options: LoopOptions,
        group: Group,
        started: float,
        on_progress: Callable[[int, int], object],
    ) -> None:
        self.runner, self.samples, self.classes = runner, samples, classes
        self.options, self.group = options, group
        self.fresh = self._empty()
        self.before = self._empty()  # what an interrupted run has left
        self.progress: Progress | None = None
        self.loop = Loop(runner, samples, options, on_batch=self._on_batch)
        self.loop.watch.called = started
        self._report, self._done, self._total = on_progress, 0, 0
        self._saved = time.monotonic()

    def execute(self, resume: Path | None) -> EvalResult:
        """The result, the same in every process."""
        if resume is not None:
            self.progress = Progress(resume, self._identity(), self.group.rank)
            self.progress.load(self.before)
            self.group.gather(None)  # nobody writes before all have read
        mine = shard(self.before.remaining, self.group.rank, self.group.world)
        self._total = len(mine)
        failure: StrzooError | None = None
        check = None
        try:
            self.loop.run(mine, self.fresh)
            timing = self.loop.watch.read()
            check = self._check_decoder(mine) if self.options.decoder != "pil" else None
        except StrzooError as error:
            failure, timing = error, self.loop.watch.read()
            self._save()
        except BaseException:
            self._save()
            raise
        found = self.group.gather((self.fresh, timing, check, failure))
        for _, _, _, failure in found:
            if failure is not None:
                raise failure
        total = self._empty()
        total.merge(self.before)
        for tally, _, _, _ in found:
            total.merge(tally)
        if not total.done.all() or len(total.done) != len(self.samples):
            raise StrzooError(
                f"{int(total.done.sum())} of {len(self.samples)} images were evaluated; "
                "please report this"
            )
        result = self._result(total, [t for _, t, _, _ in found], [c for _, _, c, _ in found])
        self.group.gather(None)
        if self.progress is not None and self.group.rank == 0:
            self.progress.remove()
        return result

    def _empty(self) -> Tally:
        return Tally.empty(len(self.samples), subset=self.samples.subset is not None)

    def _identity(self) -> tuple[str, ...]:
        return (
            self.runner.weights_sha256,
            self.samples.fingerprint(),
            repr(self.runner.steps),
            self.runner.precision,
            self.options.decoder,
        )

    def _on_batch(self, images: int) -> None:
        self._done += images
        self._report(self._done, self._total)
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        if self.progress is None:
            return
        kept = self._empty()
        kept.merge(self.before)
        kept.merge(self.fresh)
        self.progress.save(kept)
        self._saved = time.monotonic()

    def _check_decoder(self, mine: Sequence[int]) -> tuple[int, int, int, int]:
        """Images, right by each decoder, and predictions that differ, on some of `mine`."""
        count = min(len(mine), max(1, _CHECKED // self.group.world))
        some = [mine[i * len(mine) // count] for i in range(count)]
        again = self._empty()
        Loop(self.runner, self.samples, replace(self.options, decoder="pil")).run(some, again)
        labels = self.samples.labels[some]
        ours, pil = self.fresh.ranked[some], again.ranked[some]
        right = [int(find_hits(ranked, labels)[:, 0].sum()) for ranked in (ours, pil)]
        return count, right[0], right[1], int((ours[:, 0] != pil[:, 0]).sum())

    def _result(
        self,
        tally: Tally,
        timings: Sequence[Timing],
        checks: Sequence[tuple[int, int, int, int] | None],
    ) -> EvalResult:
        runner, samples = self.runner, self.samples
        hits = find_hits(tally.ranked, samples.labels)
        subset = None
        if samples.subset is not None and tally.subset is not None:
            own = find_hits(tally.subset, samples.labels)
            subset = SubsetResult(samples.subset, int(own[:, 0].sum()), int(own.sum()))
        check = None
        if known := [c for c in checks if c]:
            count, ours, pil, different = (sum(column) for column in zip(*known, strict=True))
            check = DecoderCheck(count, 100 * ours / count, 100 * pil / count, different)
        card = runner.card
        comparable = (
            card is not None
            and samples.imagenet
            and samples.subset is None
            and not samples.real
            and card.dataset == "imagenet-1k"
        )
        images, right = len(samples), int(hits[:, 0].sum())
        return EvalResult(
            images=images,
            correct_top1=right,
            correct_top5=int(hits.sum()),
            loss=tally.loss,
            predictions=as_tensor(tally.ranked[:, 0]),
            model=runner.name,
            data=samples.location,
            layout=samples.layout,
            num_classes=self.classes,
            weights_sha256=runner.weights_sha256,
            published_top1=card.published.top1 if card is not None and comparable else None,
            precision=runner.precision,
            device=_describe(runner.device),
            decoder=self.options.decoder,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            processes=self.group.world,
            resumed=int(self.before.done.sum()),
            subset=subset,
            decoder_check=check,
            broken=tuple((samples.names[i], tally.broken[i]) for i in sorted(tally.broken)),
            warnings=_warn(right, images),
            notes=samples.notes,
            timing=_combine(timings),
            versions={**_versions(), **dict(runner.versions)},
            names=samples.names,
            class_names=runner.class_names or samples.class_names,
            ranked=as_tensor(tally.ranked),
            labels=torch.from_numpy(samples.labels),
        )


def _warn(right: int, images: int) -> tuple[str, ...]:
    top1 = 100.0 * right / images
    if top1 >= SUSPICIOUS_TOP1:
        return ()
    return (
        f"top-1 is {top1:.2f} %: no better than guessing. The labels are probably in another "
        "order than the network's outputs; check the label file or the folders' names",
    )


def _combine(timings: Sequence[Timing]) -> Timing:
    """Wall times of the slowest process, working times of all together."""
    return Timing(
        setup=max(t.setup for t in timings),
        total=max(t.total for t in timings),
        first_batch=max(t.first_batch for t in timings),
        waiting=max(t.waiting for t in timings),
        decode=sum(t.decode for t in timings),
        transfer=sum(t.transfer for t in timings),
        forward=sum(t.forward for t in timings),
    )


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    found = {"strzoo": VERSION, "python": platform.python_version()}
    for name in ("torch", "torchvision", "pillow", "numpy"):
        found[name] = importlib.metadata.version(name)
    return found


def _evaluate_tensors(runner: Runner, data: ImageSet | Batches, batch_size: int) -> EvalResult:
    """Images in memory, normalised already."""
    ranked, losses, labels = [], [], []
    for images, given in _batches(data, batch_size):
        answers = []
        size = runner.fixed_batch or max(len(images), 1)
        for piece, some in zip(images.split(size), given.split(size), strict=True):
            padding = piece[:1].expand(
                (size if runner.fixed_batch else len(piece)) - len(piece), *piece.shape[1:]
            )
            inputs = torch.cat([piece, padding]).to(runner.device)
            logits = runner.forward(inputs)[: len(piece)]
            answers.append(rank(logits, some[:, None].to(logits.device), None))
        for best, _, loss in answers:
            ranked.append(best.cpu().numpy())
            losses.append(loss.double().cpu().numpy())
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
        device=_describe(runner.device),
        batch_size=batch_size,
        ranked=as_tensor(answered),
        labels=as_tensor(right),
        versions={**_versions(), **dict(runner.versions)},
    )


def _batches(data: ImageSet | Batches, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    if not isinstance(data, ImageSet):
        return data
    return zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
