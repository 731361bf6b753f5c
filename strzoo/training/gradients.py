"""Gradients of one step, in as many parts as the memory demands."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from strzoo.devices import is_out_of_memory, release_memory
from strzoo.errors import StrzooError
from strzoo.training.accelerator import Accelerator
from strzoo.training.config import TrainConfig
from strzoo.training.objective import Objective

log = logging.getLogger(__name__)

Batch = Sequence[tuple[Tensor, Tensor]]  # images and labels of each micro-batch
Prepared = Sequence[tuple[Tensor, Tensor, Tensor]]  # images, labels, and what the loss compares
Answers = tuple[Tensor, Tensor, Tensor]  # logits, labels and mean loss of some images


class Gradients:
    """Computes gradients of the mean loss over a step's images.

    If the memory does not suffice for a micro-batch, it is halved from then on. BatchNorm's
    statistics are those of a part, and keep what a try that failed has entered.

    Args:
        accelerator: how the network is called.
        optimizer: whose gradients these are.
        objective: changes images and labels, and is the loss.
        config: memory layout, and the number of micro-batches, for messages.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        config: TrainConfig,
    ) -> None:
        self._accelerator, self._optimizer = accelerator, optimizer
        self._objective, self._config = objective, config
        self.parts = 1  # of each micro-batch

    def compute(self, batch: Batch, total: float) -> list[Answers]:
        """Set the gradients of all parameters. Waits for no GPU.

        Args:
            batch: the micro-batches of this process in one step.
            total: images of them, on average over the processes, which average gradients: a
                smaller micro-batch counts for as many images as it has.

        Returns:
            What the network answered, part by part.

        Raises:
            StrzooError: not even one image fits into the memory, or one of several processes has
                too little (the others would wait for its gradients for ever).
        """
        prepared = [self._prepare(images, labels) for images, labels in batch]
        while True:
            pieces = [
                piece
                for one in prepared
                for piece in zip(*(part.chunk(self.parts) for part in one), strict=True)
            ]
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._add_up(pieces, total)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(len(pieces[0][0]))  # out of the handler: the error holds memory

    def _prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        labels = labels.to(self._accelerator.device, non_blocking=True)
        images, targets = self._objective.prepare(images, labels)
        return images, labels, targets

    def _add_up(self, pieces: Prepared, total: float) -> list[Answers]:
        accelerator, answers = self._accelerator, []
        for number, (images, labels, targets) in enumerate(pieces):
            if self._config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with accelerator.gradients(last=number + 1 == len(pieces)):
                with accelerator.autocast():
                    logits = accelerator.call(images)
                    loss = self._objective(logits, targets, images)
                accelerator.scaler.scale(loss / (total / len(images))).backward()
            answers.append((logits.detach(), labels, loss.detach()))
        return answers

    def _halve(self, size: int) -> None:
        device = self._accelerator.device
        if size == 1 or self._accelerator.wrapped is not None:
            raise StrzooError(
                f"out of memory on {device} with {size} images at once; use a smaller batch_size, "
                f"or more parts: accumulate={2 * self._config.accumulate * self.parts}"
            )
        self.parts *= 2
        log.warning("out of memory: going on with %d images at once", -(-size // 2))
        release_memory(device)
