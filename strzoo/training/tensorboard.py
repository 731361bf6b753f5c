"""TensorBoard scalars of a run; tensorboard is the optional extra strzoo[train]."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from strzoo.errors import install_advice
from strzoo.training.results import EpochDone, EpochRecord, Event, StepDone

log = logging.getLogger(__name__)


class Board:
    """Writes the scalars of a run's events; without tensorboard, or if `enabled` is False, does
    nothing.

    Args:
        folder: where the event files go.
        step: the global step that a resumed run goes on from; later scalars of the interrupted
            run are dropped.
    """

    def __init__(self, folder: Path, *, step: int, enabled: bool = True) -> None:
        self._writer: Any = None
        if not enabled:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.warning(
                "no TensorBoard scalars: %s, or set tensorboard=false", install_advice("train")
            )
            return
        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def __call__(self, event: Event) -> None:
        """Write what `event` reports."""
        if isinstance(event, StepDone):
            self._add_step(event)
        elif isinstance(event, EpochDone):
            self._add_epoch(event.record)

    def _add_step(self, report: StepDone) -> None:
        scalars = {
            "step/loss": report.loss,
            "step/top1": report.top1,
            "step/learning_rate": report.learning_rate,
            "step/images_per_second": report.images_per_second,
        }
        if report.sparsity is not None:
            scalars["step/sparsity"] = report.sparsity
        self._add(scalars, report.position)

    def _add_epoch(self, record: EpochRecord) -> None:
        scalars = {
            "train/loss": record.train_loss,
            "train/top1": record.train_top1,
            "train/top5": record.train_top5,
            "validation/loss": record.loss,
            "validation/top1": record.top1,
            "validation/top5": record.top5,
            "learning_rate": record.learning_rate,
            "sparsity/total": record.sparsity,
        }
        for name, layer in record.layers.items():
            scalars[f"sparsity/{name}"] = layer.sparsity
            if layer.threshold is not None:
                scalars[f"threshold/{name}"] = layer.threshold
        self._add(scalars, record.step)

    def _add(self, scalars: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._writer is not None:
            self._writer.close()
