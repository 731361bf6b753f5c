"""Gradients of one step, in as many parts as the memory demands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from strzoo.devices import is_out_of_memory, release_memory
from strzoo.errors import StrzooError
from strzoo.training.accelerator import Accelerator
from strzoo.training.config import TrainConfig

log = logging.getLogger(__name__)

Batch = Sequence[tuple[Tensor, Tensor]]  # images and labels of each micro-batch
Answers = tuple[Tensor, Tensor, Tensor]  # logits, labels and mean loss of some images


class Gradients:
    """Computes gradients of the mean loss over a step's images.

    If the memory does not suffice for a micro-batch, it is halved from then on. BatchNorm's
    statistics are those of a part, and keep what a try that failed has entered.

    Args:
        accelerator: how the network is called.
        optimizer: whose gradients these are.
        loss_function: of logits [B, C] and labels [B], a mean.
        config: memory layout, and the number of micro-batches, for messages.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        config: TrainConfig,
    ) -> None:
        self._accelerator, self._optimizer = accelerator, optimizer
        self._loss_function, self._config = loss_function, config
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
        while True:
            pieces = [
                piece
                for images, labels in batch
                for piece in zip(images.chunk(self.parts), labels.chunk(self.parts), strict=True)
            ]
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._add_up(pieces, total)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(len(pieces[0][0]))  # out of the handler: the error holds memory

    def _add_up(self, pieces: Batch, total: float) -> list[Answers]:
        accelerator, answers = self._accelerator, []
        for number, (images, labels) in enumerate(pieces):
            labels = labels.to(accelerator.device, non_blocking=True)
            if self._config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with accelerator.gradients(last=number + 1 == len(pieces)):
                with accelerator.autocast():
                    logits = accelerator.call(images)
                    loss = self._loss_function(logits, labels)
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
