"""The training loop: epochs of steps, each step as the equations have it, read top to bottom."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from strzoo.data.loading import explained_deaths
from strzoo.devices import choose_threads, cpu_threads
from strzoo.distributed import Group
from strzoo.errors import IntegrityError, StrzooError
from strzoo.training.accelerator import build_accelerator
from strzoo.training.builders import (
    Network,
    build_average,
    build_controller,
    build_optimizer,
    build_sampler,
    build_schedule,
)
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import DataSets
from strzoo.training.folder import RunFolder
from strzoo.training.gradients import Gradients
from strzoo.training.hints import BusyMachine, warn_if_dense
from strzoo.training.layer_state import measure_layers, total_sparsity
from strzoo.training.metric import Metric, validate
from strzoo.training.objective import Objective, Teacher
from strzoo.training.random_state import seed_all
from strzoo.training.results import (
    EpochDone,
    EpochRecord,
    Event,
    StepDone,
    choose_best,
    summarise_accuracy,
)
from strzoo.training.schedules import LearningRate
from strzoo.training.signals import StopRequest
from strzoo.training.sparsity_target import project_sparsity
from strzoo.training.state import TrainState
from strzoo.training.trial import blank_images, try_network

log = logging.getLogger(__name__)

_CHECK_EVERY = {"cpu": 1, "cuda": 10}  # steps; to look at the loss is to wait for the GPU


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked the run to end; its state is complete."""


class Trainer:
    """Trains a network on a data set: `strzoo.train` and `strzoo.fit` both run on it.

    Args:
        config: everything but the network and the data.
        network: what is trained, on `device`.
        data: the images.
        device: of this process.
        group: the processes that share each batch; this one alone by default.
        schedule: the learning rate, instead of the one that `config` names.
        teacher: whose answers the network learns as well.
        folder: where checkpoints and results go; None keeps nothing.
        on_event: called after steps and epochs.

    Raises:
        UsageError: the configuration does not fit the network, the data or the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: Network,
        data: DataSets,
        *,
        device: torch.device,
        group: Group | None = None,
        schedule: LearningRate | None = None,
        teacher: Teacher | None = None,
        folder: RunFolder | None = None,
        on_event: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self.config, self.network, self.data, self.device = config, network, data, device
        self.group = group or Group()
        self.model = model = network.model
        self.sampler = build_sampler(config, len(data.train), self.group.world)
        self.schedule = schedule or build_schedule(config)
        self.folder = folder
        total_steps = config.epochs * self.sampler.steps_per_epoch
        optimizer = build_optimizer(model, config)
        average = build_average(model, config)
        controller = build_controller(model, config, total_steps)
        self.accelerator = build_accelerator(model, config, device, self.group)
        pixels = self.sampler.micro_batch * math.prod(data.image_shape[1:])
        self.threads = choose_threads(config.threads, pixels)
        self.state = TrainState(
            config, model, optimizer, self.accelerator.scaler, Metric(device),
            self.sampler.images, self.threads, average, controller, network.mask,
        )  # fmt: skip
        objective = Objective(config, teacher)
        self._gradients = Gradients(self.accelerator, optimizer, objective, config)
        self._busy = BusyMachine(device)
        self._stop = StopRequest()
        self._on_event = on_event
        self.check_every = _CHECK_EVERY[device.type]
        seed_all(config.seed + self.group.rank)  # dropout and the like differ between processes

    def try_out(self) -> tuple[str, ...]:
        """Try the network on blank images, before anything is trained or written: notes on it.

        Raises: as `try_network`.
        """
        few, advice = self.data.smallest or (self.sampler.smallest_part, self.sampler.advice)
        few = min(few, 2)  # which every network that trains can normalise
        images = blank_images(few, self.data.image_shape, self.device, self.data.image_type)
        with cpu_threads(self.threads):
            return try_network(
                self.network, images, classes=self.config.num_classes,
                context=self.accelerator.autocast, processes=self.group.world, advice=advice,
            )  # fmt: skip

    @property
    def position(self) -> int:
        """Optimizer steps done in the whole run."""
        return self.state.epoch * self.sampler.steps_per_epoch + self.state.step

    def run(self, stop: StopRequest | None = None) -> None:
        """Train to the end, from wherever the state is.

        Args:
            stop: tells whether a signal asked to stop.

        Raises:
            Stopped: a signal asked to; the state is written.
            StrzooError: the loss is not finite, an image cannot be read; the last checkpoint
                stays.
        """
        state, folder = self.state, self.folder
        self._stop = stop or self._stop
        if self.position == 0:
            if folder is not None:
                self.group.lead(lambda: folder.save_initial(self.model, self.data.trained_on))
            if state.controller is not None:
                state.controller.step(0)
        try:
            with explained_deaths():
                while state.epoch < self.config.epochs:
                    self._train_epoch()
                    self._finish_epoch()
        except Stopped:
            self.save()
            raise
        if self.group.rank == 0:
            warn_if_dense(self.model)

    def _train_epoch(self) -> None:
        state, sampler = self.state, self.sampler
        self.network.train()
        indices = sampler.indices(state.epoch, self.group.rank, state.step)
        if not indices:  # stopped between the last step and the end of validation
            return
        batches = self.data.train.batches(indices, sampler.micro_batch, epoch=state.epoch)
        clock = time.perf_counter()
        with contextlib.closing(batches):
            while batch := list(islice(batches, self.config.accumulate)):
                self.take_step(batch)
                clock, before = time.perf_counter(), clock
                state.seconds += clock - before
                self._report_step()
                every = self.config.checkpoint_every
                if every and self.position % every == 0 and state.step < sampler.steps_per_epoch:
                    self.save()

    def take_step(self, batch: list[tuple[Tensor, Tensor]]) -> None:
        """One optimizer step on this process's share of a global batch, in parts.

        Nothing here waits for a GPU, except every `check_every` steps the look at the loss, and
        the decisions of a sparsity target.
        """
        state, accelerator = self.state, self.accelerator
        is_stopping = self.group.ask(lambda: self._stop.name is not None)
        epoch = state.epoch + state.step / self.sampler.steps_per_epoch
        for group in state.optimizer.param_groups:
            group["lr"] = group.get("lr_scale", 1.0) * self.schedule.at(epoch)
        self.network.prune(self.config, epoch)
        total = self.sampler.step_images(state.step) / self.group.world
        for answers in self._gradients.compute(batch, total):
            state.metric.add(*answers)
        self._check_loss()
        if self.config.clip_gradient is not None:
            accelerator.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_gradient)
        accelerator.scaler.step(state.optimizer)
        accelerator.scaler.update()
        if state.mask is not None:
            state.mask.apply()
        state.step += 1
        if state.controller is not None:
            state.controller.step(self.position)
            if state.step == self.sampler.steps_per_epoch:
                state.controller.settle()
        if state.average is not None:
            state.average.update(self.model)
        if is_stopping():
            raise Stopped

    def _check_loss(self) -> None:
        """Look at the loss every `check_every` steps, and in the last one of an epoch.

        Raises:
            StrzooError: it is not finite in some process.
        """
        last = self.state.step + 1 == self.sampler.steps_per_epoch
        if (self.position + 1) % self.check_every and not last:
            return
        if self.group.any([not math.isfinite(self.state.metric.loss_sum)])[0]:
            raise self._divergence("the loss is not finite", self.position + 1)

    def _divergence(self, what: str, position: int) -> StrzooError:
        epoch, step = divmod(position - 1, self.sampler.steps_per_epoch)
        kept = "begin again"
        if self.folder is not None and self.folder.last.exists():
            kept = f"{self.folder.last} is from before; go on from it with resume=auto"
        return StrzooError(
            f"{what} in epoch {epoch + 1}, step {step + 1}, at learning rate "
            f"{self._rate:.4g}: {kept}, with a lower learning_rate or longer warmup_epochs"
        )

    @property
    def _rate(self) -> float:
        return max(group["lr"] for group in self.state.optimizer.param_groups)

    def _report_step(self) -> None:
        state, steps = self.state, self.sampler.steps_per_epoch
        if self.position % self.config.log_every and state.step < steps:
            return
        self._busy.check()
        loss, top1, _ = state.metric.compute()  # this process's share
        images = self.group.world * float(state.metric.sums[3])
        control = state.controller.last if state.controller is not None else None
        report = StepDone(
            state.epoch + 1, state.step, steps, loss, top1, self._rate,
            images / max(state.seconds, 1e-9), None if control is None else 100 * control.sparsity,
        )  # fmt: skip
        self._on_event(report)

    def _finish_epoch(self) -> None:
        """Validate, enter the epoch into the history, and write everything down."""
        state, folder = self.state, self.folder
        train_loss, train_top1, train_top5 = state.metric.compute(self.group)
        model = self._evaluated_model()
        self.group.broadcast(list(model.buffers()))  # BatchNorm's, which differ by process
        loss, top1, top5 = self._validate(model)
        layers = measure_layers(model)
        images = self.sampler.images_per_epoch
        record = EpochRecord(
            state.epoch + 1, self.position, train_loss, train_top1, train_top5, loss, top1,
            top5, self._rate, total_sparsity(layers), self._wanted_sparsity(), state.seconds,
            images / max(state.seconds, 1e-9), self._is_candidate(), layers,
        )  # fmt: skip
        state.history.append(record)
        best = choose_best(state.history) is record
        if folder is not None:
            self._keep(folder, model, best)
        state.epoch, state.step, state.seconds = state.epoch + 1, 0, 0.0
        state.metric = Metric(self.device)
        self.save()
        if folder is not None:
            self.group.lead(lambda: folder.write_history(state.history))
        self._on_event(EpochDone(record, best))
        asked = self.group.any([self._stop.name is not None])[0]
        if asked and state.epoch < self.config.epochs:
            raise Stopped

    def _keep(self, folder: RunFolder, model: nn.Module, best: bool) -> None:
        """Write the network of this epoch, if it is the best or one of those to keep."""
        number, every = self.state.epoch + 1, self.config.keep_every
        accuracy = {**summarise_accuracy(self.state.history), "epoch": number}
        if best:
            self.group.lead(lambda: folder.save_best(model, accuracy, self.data.trained_on))
        if every and number % every == 0:
            self.group.lead(lambda: folder.save_epoch(model, accuracy, self.data.trained_on))

    def _validate(self, model: nn.Module) -> tuple[float, float, float]:
        """Loss, top-1 and top-5; NaN without validation images."""
        if self.data.validation is None:
            return math.nan, math.nan, math.nan
        found = validate(
            model,
            self.data.validation,
            batch_size=self.sampler.micro_batch,
            device=self.device,
            group=self.group,
            autocast=self.accelerator.autocast,
            channels_last=self.config.channels_last,
            check=self._check_stop,
        )
        if not math.isfinite(found[0]):
            raise self._divergence("the validation loss is not finite", self.position)
        return found

    def _evaluated_model(self) -> nn.Module:
        """The network to validate and keep: the average if there is one, at the sparsity
        wanted."""
        model, state = self.model, self.state
        if state.average is not None:
            model = state.average.module
            if state.controller is not None:
                model = copy.deepcopy(model)
                project_sparsity(model, state.controller.wanted(self.position))
        if not self.config.is_on("prune_per_epoch"):  # there the rate stays for validation
            self.network.prune(self.config, state.epoch + 1, model)
        elif model is not self.model:
            self.network.prune(self.config, state.epoch, model)
        return model

    def _wanted_sparsity(self) -> float | None:
        controller = self.state.controller
        return None if controller is None else 100 * controller.wanted(self.position)

    def _is_candidate(self) -> bool:
        """Whether the network is as sparse as it is meant to end."""
        if self.state.controller is not None:
            return self.state.controller.holding
        ended = self.state.epoch + (0 if self.config.is_on("prune_per_epoch") else 1)
        return self.config.method != "gmp" or ended >= self.config.prune_span[1]

    def _check_stop(self) -> None:
        if self.group.world == 1 and self._stop.name is not None:
            raise Stopped

    def save(self) -> None:
        """Write last.pth, if there is a folder: everything that the next step depends on."""
        folder = self.folder
        if folder is None:
            return
        accuracy = summarise_accuracy(self.state.history)
        own = self.state.state_dict(self.group)  # of all processes
        document = {**accuracy, "epoch": self.state.epoch, **own}
        try:
            self.group.lead(lambda: folder.save_last(self.model, document, self.data.trained_on))
        except IntegrityError as error:
            raise self._divergence(str(error), self.position) from error
