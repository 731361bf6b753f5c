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
    that epoch, or make a smaller one (`keep_last`).

    Args:
        images: how many there are.
        batch_size: images of a step, over all processes and accumulated parts.
        seed: of the order.
        processes: that share each step.
        accumulate: parts in which each of them computes its share.
        keep_last: train the last images of an epoch too.

    Raises:
        UsageError: there are fewer images than one batch, the batch cannot be shared out equally,
            or the last one leaves a process without images.
    """

    images: int
    batch_size: int
    seed: int = 0
    processes: int = 1
    accumulate: int = 1
    keep_last: bool = False

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
        if self._last and self._last < self.processes:
            raise UsageError(
                f"the last batch of an epoch has {self._last} images for {self.processes} "
                "processes; set keep_last_batch=false, or another batch_size"
            )

    @property
    def _last(self) -> int:
        """Images of the smaller batch at the end of an epoch; 0 if there is none."""
        return self.images % self.batch_size if self.keep_last else 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.images // self.batch_size + bool(self._last)

    @property
    def images_per_epoch(self) -> int:
        """Images that are trained in an epoch."""
        return self.images // self.batch_size * self.batch_size + self._last

    def step_images(self, step: int) -> int:
        """Images of one step of an epoch, counted from 0, over all processes and parts."""
        return self.batch_size if step < self.images // self.batch_size else self._last

    @property
    def micro_batch(self) -> int:
        """Images that one process computes at once."""
        return self.batch_size // (self.processes * self.accumulate)

    @property
    def smallest_part(self) -> int:
        """The fewest images that a process ever computes at once."""
        shares = [self.micro_batch]
        if self._last:
            shares += [self._last // self.processes, -(-self._last // self.processes)]
        return min(share % self.micro_batch or self.micro_batch for share in shares)

    @property
    def advice(self) -> str:
        """What to change where one image at once is too few."""
        if self.micro_batch > 1:
            return "set keep_last_batch=false, or another batch_size"
        parts = self.processes * self.accumulate
        fewer = f", or accumulate={self.accumulate // 2}" if self.accumulate > 1 else ""
        return f"set batch_size={2 * parts} or more{fewer}"

    def indices(self, epoch: int, rank: int = 0, start: int = 0) -> list[int]:
        """The images of one process in one epoch, step by step.

        Args:
            epoch: counted from 0.
            rank: of the process.
            start: steps of the epoch to leave out, those that are done.

        Returns:
            Image numbers, `batch_size / processes` for each step; the share of the smaller step
            comes last.
        """
        order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
        whole, rest = np.split(order, [self.images // self.batch_size * self.batch_size])
        shared = whole.reshape(-1, self.processes, self.batch_size // self.processes)
        mine: list[int] = shared[start:, rank].reshape(-1).tolist()
        if self._last and start < self.steps_per_epoch:
            mine += np.array_split(rest, self.processes)[rank].tolist()
        return mine
