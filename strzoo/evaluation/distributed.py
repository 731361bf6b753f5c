"""One evaluation of image files, by this process and the others that share the work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from strzoo.data.loading import shard
from strzoo.data.samples import Samples
from strzoo.devices import describe_device, list_versions
from strzoo.distributed import Group
from strzoo.errors import StrzooError
from strzoo.evaluation.loop import Loop, LoopOptions
from strzoo.evaluation.metric import Metric, Progress
from strzoo.evaluation.results import (
    SUSPICIOUS_TOP1,
    DecoderCheck,
    EvalResult,
    SubsetResult,
    Timing,
    as_tensor,
    find_hits,
)
from strzoo.evaluation.runner import Runner
from strzoo.files import check_destination

log = logging.getLogger(__name__)

_SAVE_EVERY = 30.0  # seconds, with `resume`
_CHECKED = 1000  # images on which another decoder is compared with PIL


class Run:
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
            check_destination(self.progress.mine, force=True)
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
        for part, _, _, _ in found:
            total.merge(part)
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

    def _empty(self) -> Metric:
        return Metric.empty(len(self.samples), subset=self.samples.subset is not None)

    def _identity(self) -> tuple[str, ...]:
        return (
            self.runner.weights_sha256,
            self.samples.fingerprint(),
            repr(self.runner.preprocessing),
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
        log.info("kept %d of %d images in %s", kept.done.sum(), len(kept.done), self.progress.mine)
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
        metric: Metric,
        timings: Sequence[Timing],
        checks: Sequence[tuple[int, int, int, int] | None],
    ) -> EvalResult:
        runner, samples = self.runner, self.samples
        hits = find_hits(metric.ranked, samples.labels)
        subset = None
        if samples.subset is not None and metric.subset is not None:
            own = find_hits(metric.subset, samples.labels)
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
        warnings = _warn(right, images)
        if self.group.rank == 0:
            for warning in warnings:
                log.warning(warning)
        return EvalResult(
            images=images,
            correct_top1=right,
            correct_top5=int(hits.sum()),
            loss=metric.loss,
            predictions=as_tensor(metric.ranked[:, 0]),
            model=runner.name,
            data=samples.location,
            layout=samples.layout,
            num_classes=self.classes,
            weights_sha256=runner.weights_sha256,
            published_top1=card.published.top1 if card is not None and comparable else None,
            precision=runner.precision,
            device=describe_device(runner.device),
            decoder=self.options.decoder,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            processes=self.group.world,
            resumed=int(self.before.done.sum()),
            subset=subset,
            decoder_check=check,
            broken=tuple((samples.names[i], metric.broken[i]) for i in sorted(metric.broken)),
            warnings=warnings,
            notes=(*runner.reader.notes, *samples.notes),
            timing=_combine(timings),
            versions={**list_versions(), **dict(runner.versions)},
            names=samples.names,
            class_names=runner.class_names or samples.class_names,
            ranked=as_tensor(metric.ranked),
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
