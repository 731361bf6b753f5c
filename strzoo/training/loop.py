"""The training loop: epochs of steps, each step as the equations have it, read top to bottom."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from strzoo.distributed import Group
from strzoo.errors import IntegrityError, StrzooError
from strzoo.settings import Settings
from strzoo.training.builders import (
    build_average,
    build_controller,
    build_machine,
    build_network,
    build_optimizer,
    build_schedule,
)
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import open_datasets
from strzoo.training.folder import RunFolder
from strzoo.training.random_state import seed_all
from strzoo.training.results import EpochDone, EpochRecord, Event, StepDone, choose_best
from strzoo.training.sampler import BatchOrder
from strzoo.training.signals import StopRequest
from strzoo.training.sparsity_target import project_sparsity
from strzoo.training.state import pack_state
from strzoo.training.tensorboard import Board
from strzoo.training.validate import Tally, measure_layers, total_sparsity, validate

log = logging.getLogger(__name__)

_CHECK_EVERY = {"cpu": 1, "cuda": 10}  # steps; looking at the loss makes a GPU wait


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked the run to end; its state is complete."""


class Trainer:
    """A run in progress. `epoch` are the epochs done, `step` the steps done in the present one;
    together with the network, the optimizer and the rest of the state they say what comes next."""

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        group: Group,
        *,
        local_processes: int = 1,
        settings: Settings | None = None,
        on_event: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self.config, self.device, self.group = config, device, group
        self.data = open_datasets(config, device, local_processes)
        self.order = BatchOrder(
            len(self.data.train), config.batch_size, config.seed, group.world, config.accumulate
        )
        self.labels = torch.from_numpy(self.data.train.labels[:, 0])
        seed_all(config.seed)
        self.network = build_network(config, device, group=group, settings=settings)
        self.model = self.network.model
        self.optimizer = build_optimizer(self.model, config)
        self.schedule = build_schedule(config)
        self.average = build_average(self.model, config)
        self.total_steps = config.epochs * self.order.steps
        self.controller = build_controller(self.model, config, self.total_steps)
        self.machine = build_machine(self.model, config, device, group)
        self.loss_function = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        seed_all(config.seed + group.rank)  # dropout and the like differ between processes
        self.epoch = self.step = 0
        self.tally = Tally(device)
        self.seconds = 0.0
        self.history: list[EpochRecord] = []
        self.board: Board | None = None
        self._on_event = on_event
        self._check_every = _CHECK_EVERY[device.type]

    @property
    def position(self) -> int:
        """Steps done in the whole run."""
        return self.epoch * self.order.steps + self.step

    def run(self, folder: RunFolder, stop: StopRequest, *, resumed: Path | None) -> None:
        """Train to the end, from wherever the state is.

        Raises:
            Stopped: a signal asked to; the state is written.
            StrzooError: the loss is not finite, an image cannot be read; the last checkpoint
                stays.
        """
        self.folder, self.stop = folder, stop
        if resumed is None:
            self.group.lead(lambda: folder.save_initial(self.model))
            if self.controller is not None:
                self.controller.step(0)
        try:
            while self.epoch < self.config.epochs:
                self._train_epoch()
                self._finish_epoch()
        except Stopped:
            self.save()
            raise

    def _train_epoch(self) -> None:
        self.network.train()
        size, parts = self.order.part, self.config.accumulate
        share = self.order.share(self.epoch, self.group.rank, self.step)
        if not share:  # stopped between the last step and the end of validation
            return
        fed = self.data.train.batches(share, size, epoch=self.epoch)
        clock = time.perf_counter()
        with contextlib.closing(fed):
            while batch := list(islice(fed, parts)):
                self._take_step(batch)
                clock, before = time.perf_counter(), clock
                self.seconds += clock - before
                self._report_step()
                every = self.config.checkpoint_every
                if every and self.position % every == 0 and self.step < self.order.steps:
                    self.save()

    def _take_step(self, batch: list[tuple[Tensor, Tensor]]) -> None:
        """One optimizer step on this process's share of a global batch, in parts."""
        epoch = self.epoch + self.step / self.order.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(epoch)
        self.network.prune(self.config, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, (images, indices) in enumerate(batch):
            labels = self.labels[indices].to(self.device, non_blocking=True)
            if self.config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with self.machine.waiting(more=number + 1 < len(batch)):
                with self.machine.autocast():
                    logits = self.machine.call(images)
                    loss = self.loss_function(logits, labels)
                self.machine.scaler.scale(loss / len(batch)).backward()
            self.tally.add(logits, labels, loss)
            losses.append(loss.detach())
        stopping = self._agree(losses)
        self.machine.scaler.step(self.optimizer)
        self.machine.scaler.update()
        if self.network.mask is not None:
            self.network.mask.apply()
        self.step += 1
        if self.controller is not None:
            self.controller.step(self.position)
            if self.step == self.order.steps:
                self.controller.settle()
        if self.average is not None:
            self.average.update(self.model)
        if stopping:
            raise Stopped

    def _agree(self, losses: list[Tensor]) -> bool:
        """Whether all processes are to stop after this step.

        Raises:
            StrzooError: a loss is not finite in some process; nothing was updated with it.
        """
        last = self.step + 1 == self.order.steps
        if (self.position + 1) % self._check_every and not last:
            return False
        finite = math.isfinite(float(self.tally.sums[0]) + sum(float(loss) for loss in losses))
        stop, diverged = self.group.any([self.stop.name is not None, not finite])
        if diverged:
            raise self._divergence("the loss is not finite", self.position + 1)
        return stop

    def _divergence(self, what: str, position: int) -> StrzooError:
        epoch, step = divmod(position - 1, self.order.steps)
        kept = (
            f"{self.folder.last} is from before; go on from it with resume=auto"
            if self.folder.last.exists()
            else "begin again"
        )
        rate = self.optimizer.param_groups[0]["lr"]
        return StrzooError(
            f"{what} in epoch {epoch + 1}, step {step + 1}, at learning rate {rate:.4g}: {kept}, "
            "with a lower learning_rate or longer warmup_epochs"
        )

    def _report_step(self) -> None:
        if self.position % self.config.log_every and self.step < self.order.steps:
            return
        loss, top1, _ = self.tally.read()  # this process's share
        images = self.group.world * float(self.tally.sums[3])
        report = StepDone(
            self.epoch + 1, self.step, self.order.steps, loss, top1,
            self.optimizer.param_groups[0]["lr"], images / max(self.seconds, 1e-9),
        )  # fmt: skip
        if self.board is not None:
            steered = self.controller.last if self.controller is not None else None
            total = None if steered is None else 100 * steered.sparsity
            self.board.add_step(report, self.position, total)
        self._on_event(report)

    def _finish_epoch(self) -> None:
        """Validate, enter the epoch into the history, and write everything down."""
        train_loss, train_top1, train_top5 = self.tally.read(self.group)
        with self._validated() as model:
            self.group.broadcast(list(model.buffers()))  # BatchNorm's, which differ by process
            loss, top1, top5 = validate(
                model,
                self.data.validation,
                batch_size=self.order.part,
                device=self.device,
                group=self.group,
                autocast=self.machine.autocast,
                channels_last=self.config.channels_last,
                check=self._check_stop,
            )
            if not math.isfinite(loss):
                raise self._divergence("the validation loss is not finite", self.position)
            layers = measure_layers(model)
            record = EpochRecord(
                self.epoch + 1, self.position, train_loss, train_top1, train_top5, loss, top1,
                top5, self.optimizer.param_groups[0]["lr"], total_sparsity(layers),
                self._wanted_sparsity(), self.seconds,
                self.order.steps * self.config.batch_size / max(self.seconds, 1e-9),
                self._is_candidate(), layers,
            )  # fmt: skip
            self.history.append(record)
            best = choose_best(self.history) is record
            if best:
                self.group.lead(lambda: self.folder.save_best(model, self.describe_best()))
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.tally = Tally(self.device)
        self.save()
        self.group.lead(lambda: self.folder.write_history(self.history))
        if self.board is not None:
            self.board.add_epoch(record)
        self._on_event(EpochDone(record, best))
        if self.group.any([self.stop.name is not None])[0] and self.epoch < self.config.epochs:
            raise Stopped

    @contextlib.contextmanager
    def _validated(self) -> Iterator[nn.Module]:
        """The network to judge and keep: the average if there is one, at the sparsity wanted."""
        model = self.model
        if self.average is not None:
            model = self.average.module
            if self.controller is not None:
                model = copy.deepcopy(model)
                project_sparsity(model, self.controller.wanted(self.position))
        self.network.prune(self.config, self.epoch + 1, model)
        yield model

    def _wanted_sparsity(self) -> float | None:
        if self.controller is None:
            return None
        return 100 * self.controller.wanted(self.position)

    def _is_candidate(self) -> bool:
        """Whether the network is as sparse as it is meant to end."""
        if self.controller is not None:
            return self.controller.holding
        return self.config.method != "gmp" or self.epoch + 1 >= self.config.prune_end

    def _check_stop(self) -> None:
        if self.group.world == 1 and self.stop.name is not None:
            raise Stopped

    def describe_best(self) -> dict[str, object]:
        """The published fields about accuracy, in percent."""
        best, last = choose_best(self.history), self.history[-1] if self.history else None
        train = [record.train_top1 for record in self.history]
        five = [record.train_top5 for record in self.history]
        return {
            "epoch": len(self.history),
            "best_acc1": best.top1 if best else 0.0,
            "best_acc5": best.top5 if best else 0.0,
            "best_train_acc1": max(train, default=0.0),
            "best_train_acc5": max(five, default=0.0),
            "curr_acc1": last.top1 if last else "Not evaluated",
            "curr_acc5": last.top5 if last else "Not evaluated",
        }

    def save(self) -> None:
        """Write last.pth: everything that the next step depends on."""
        state = {**self.describe_best(), **pack_state(self)}  # of all processes
        try:
            self.group.lead(lambda: self.folder.save_last(self.model, state))
        except IntegrityError as error:
            raise self._divergence(str(error), self.position) from error
