"""Which images make each step: a function of seed and epoch, so that any step can be returned to.

A step's global batch does not depend on the number of processes, which share it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.errors import UsageError


@dataclass(frozen=True)
class BatchSampler:
    """The order of the images in every epoch. The last images that fill no batch are left out of
    that epoch.

    Args:
        images: how many there are.
        batch_size: images of a step, over all processes and accumulated parts.
        seed: of the order.
        processes: that share each step.
        accumulate: parts in which each of them computes its share.

    Raises:
        UsageError: there are fewer images than one batch, or the batch cannot be shared out
            equally.
    """

    images: int
    batch_size: int
    seed: int = 0
    processes: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            raise UsageError(
                f"{self.images} images are too few for one batch: batch_size={self.batch_size}; "
                f"set batch_size={self.images} or less"
            )
        parts = self.processes * self.accumulate
        if self.batch_size % parts:
            raise UsageError(
                f"batch_size={self.batch_size} is the global one and cannot be shared by "
                f"{self.processes} processes in accumulate={self.accumulate} parts; make it a "
                f"multiple of {parts}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.images // self.batch_size

    @property
    def micro_batch(self) -> int:
        """Images that one process computes at once."""
        return self.batch_size // (self.processes * self.accumulate)

    def indices(self, epoch: int, rank: int = 0, start: int = 0) -> list[int]:
        """The images of one process in one epoch, step by step.

        Args:
            epoch: counted from 0.
            rank: of the process.
            start: steps of the epoch to leave out, those that are done.

        Returns:
            Image numbers, `batch_size / processes` for each step.
        """
        order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
        batches = order[: self.steps_per_epoch * self.batch_size]
        shared = batches.reshape(self.steps_per_epoch, self.processes, -1)
        mine: list[int] = shared[start:, rank].reshape(-1).tolist()
        return mine
