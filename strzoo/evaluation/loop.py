"""The loop: images in, answers out, the device never waiting for the host if it can be helped."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from strzoo.data.images import BrokenImageError
from strzoo.data.loading import Batch, decode_on_device, load_batches
from strzoo.data.samples import Samples
from strzoo.devices import is_out_of_memory, release_memory
from strzoo.errors import StrzooError
from strzoo.evaluation.metric import Answers, Metric, rank
from strzoo.evaluation.results import Timing
from strzoo.evaluation.runner import Runner, check_finite

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopOptions:
    """How images are loaded and run. `pad` fills the last batch up, for networks that want
    one size; `skip_broken` counts unreadable images as wrong instead of stopping."""

    batch_size: int
    workers: int
    decoder: str = "pil"
    pad: bool = False
    skip_broken: bool = False


@dataclass
class Watch:
    """Seconds by purpose; on a GPU by events, which cost no waiting."""

    device: torch.device
    called: float = field(default_factory=time.perf_counter)
    started: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    _events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def add(self, purpose: str, seconds: float) -> None:
        self.seconds[purpose] = self.seconds.get(purpose, 0.0) + seconds

    @contextlib.contextmanager
    def measure(self, purpose: str) -> Iterator[None]:
        """Time the block: of the host, or of the current stream's work."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            yield
            self.add(purpose, time.perf_counter() - start)
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        yield
        after.record()
        self._events.append((purpose, before, after))

    def read(self) -> Timing:
        """All that was measured until now."""
        if self._events:
            torch.cuda.synchronize(self.device)
            for purpose, before, after in self._events:
                self.add(purpose, before.elapsed_time(after) / 1000)
            self._events.clear()
        return Timing(
            setup=self.started - self.called,
            total=time.perf_counter() - self.started,
            first_batch=self.first,
            **self.seconds,
        )


class Loop:
    """Runs a network over samples and enters its answers into a metric.

    Out of memory halves the number of images that run at once, from then on.
    """

    def __init__(
        self,
        runner: Runner,
        samples: Samples,
        options: LoopOptions,
        *,
        on_batch: Callable[[int], object] = lambda done: None,
    ) -> None:
        self.runner, self.samples, self.options = runner, samples, options
        self.watch = Watch(runner.device)
        self.chunk = runner.most_at_once(options.batch_size)
        self._on_batch = on_batch
        self._subset = (
            None if samples.subset is None else torch.tensor(samples.subset, device=runner.device)
        )

    def run(self, indices: Sequence[int], metric: Metric) -> None:
        """Evaluate the samples `indices`.

        Raises:
            IntegrityError: an image is unreadable, and such are not skipped; its name is told.
            StrzooError: the outputs are not finite, or not even one image fits into memory.
        """
        batches = load_batches(
            self.samples,
            indices,
            self.runner.preprocessing,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            device=self.runner.device,
            decoder=self.options.decoder,
        )
        with contextlib.closing(batches):
            self._consume(batches, metric)

    def _consume(self, batches: Iterator[Batch], metric: Metric) -> None:
        pending: tuple[Batch, Callable[[], Answers]] | None = None
        for batch, inputs in self._staged(self._timed(batches)):
            self.watch.first = self.watch.first or time.perf_counter() - self.watch.called
            labels = torch.from_numpy(self.samples.labels[batch.indices.numpy()])
            labels = labels.to(self.runner.device, non_blocking=True)
            answers = self._read_later(self._answer(inputs, labels))
            # The answers before these are read while the device works on these.
            if pending is not None:
                self._enter(*pending, metric)
            pending = (batch, answers)
        if pending is not None:
            self._enter(*pending, metric)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.watch.add("waiting", time.perf_counter() - start)
            if batch is None:
                return
            self.watch.add("decode", batch.seconds)
            if batch.broken and not self.options.skip_broken:
                self._refuse(batch)
            yield batch

    def _staged(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Batches with what is on the device: for the CPU pixels, for a GPU the network's inputs,
        one batch ahead, copied and normalised on a stream of their own."""
        if self.runner.device.type != "cuda":
            for batch in batches:
                with self.watch.measure("transfer"):
                    batch = self._decoded(batch)
                yield batch, batch.pixels
            return
        side = torch.cuda.Stream(self.runner.device)
        ahead: tuple[Batch, Tensor] | None = None
        for batch in batches:
            with torch.cuda.stream(side), self.watch.measure("transfer"):
                staged = self._stage(batch)
            if ahead is not None:
                yield ahead
            main = torch.cuda.current_stream(self.runner.device)
            main.wait_stream(side)
            staged[1].record_stream(main)
            ahead = staged
        if ahead is not None:
            yield ahead

    def _stage(self, batch: Batch) -> tuple[Batch, Tensor]:
        batch = self._decoded(batch)
        pixels = batch.pixels.to(self.runner.device, non_blocking=True)
        return batch, self.runner.prepare(pixels)

    def _decoded(self, batch: Batch) -> Batch:
        """The batch with nothing left encoded."""
        if batch.encoded:
            batch = decode_on_device(batch, self.runner.preprocessing, self.runner.device)
            if batch.broken and not self.options.skip_broken:
                self._refuse(batch)
        return batch

    def _refuse(self, batch: Batch) -> None:
        row, reason = next(iter(batch.broken.items()))
        name = self.samples.names[int(batch.indices[row])]
        raise BrokenImageError(
            f"cannot read {self.samples.location}/{name}: {reason}; pass --skip-broken "
            "(skip_broken=True) to count such images as wrong and list them"
        )

    def _answer(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        parts: list[tuple[Tensor, Tensor | None, Tensor]] = []
        start = 0
        while start < len(inputs):
            piece = inputs[start : start + self.chunk]
            try:
                ready = self._prepared(self._fill(piece))
                with self.watch.measure("forward"):
                    scores = self.runner.run(ready)[: len(piece)]
                    some = labels[start : start + len(piece)]
                    parts.append(rank(scores, some, self._subset, self.runner.reader))
                start += len(piece)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                continue
            self._halve(len(piece))  # out of the handler: the error holds the failed try's memory
        ranked, losses = (torch.cat([p[i] for p in parts]) for i in (0, 2))  # type: ignore[misc]
        own = [p[1] for p in parts if p[1] is not None]
        return ranked, torch.cat(own) if own else None, losses

    def _prepared(self, piece: Tensor) -> Tensor:
        if self.runner.device.type == "cuda":  # it was, on the way there
            return piece
        with self.watch.measure("transfer"):
            return self.runner.prepare(piece)

    def _fill(self, piece: Tensor) -> Tensor:
        size = self.chunk if self.options.pad or self.runner.fixed_batch else len(piece)
        if len(piece) == size:
            return piece
        return torch.cat([piece, piece[:1].expand(size - len(piece), *piece.shape[1:])])

    def _halve(self, size: int) -> None:
        if size == 1 or self.runner.fixed_batch:
            raise StrzooError(
                f"{self.runner.name}: {self.runner.engine} is out of memory on "
                f"{self.runner.device} with {size} images at once; use a smaller model, another "
                "device, or close other programs"
            )
        self.chunk = size // 2
        log.warning("out of memory: going on with %d images at once", self.chunk)
        release_memory(self.runner.device)

    def _read_later(self, answers: tuple[Tensor, Tensor | None, Tensor]) -> Callable[[], Answers]:
        """Begin to copy answers to the host; the function waits for them alone, not for what the
        device was given after them."""
        host = [None if part is None else part.to("cpu", non_blocking=True) for part in answers]
        copied = torch.cuda.Event() if self.runner.device.type == "cuda" else None
        if copied is not None:
            copied.record()

        def read() -> Answers:
            if copied is not None:
                copied.synchronize()
            ranked, own, losses = (None if part is None else part.numpy() for part in host)
            assert ranked is not None
            assert losses is not None
            return Answers(ranked, own, losses)

        return read

    def _enter(self, batch: Batch, answers: Callable[[], Answers], metric: Metric) -> None:
        found = answers()
        readable = [row for row in range(len(batch)) if row not in batch.broken]
        check_finite(found.losses[readable], self.runner)
        indices = batch.indices.numpy()
        metric.add(indices, found)
        for row, reason in batch.broken.items():
            metric.forget(int(indices[row]), reason)
        self._on_batch(len(batch))
