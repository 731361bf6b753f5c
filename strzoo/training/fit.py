"""fit: train any network on images in memory, in place.

SGD with momentum, linear warm-up and cosine learning rate, label smoothing: the recipe of the
STR paper (appendix), shortened. The loop is that of `strzoo.train`, without a run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from strzoo.data.imageset import ImageSet
from strzoo.sparse.sparsify import sparse_layers
from strzoo.training.builders import Network
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import DataSets
from strzoo.training.loaders import MemoryLoader
from strzoo.training.loop import Trainer
from strzoo.training.random_state import preserved_randomness
from strzoo.training.results import EpochDone, Event
from strzoo.training.schedules import LearningRate


@dataclass(frozen=True)
class FitConfig:
    """How `fit` trains.

    Args:
        epochs: passes over the images; the cosine ends with the last.
        batch_size: images per step.
        learning_rate: the peak rate.
        momentum: of SGD.
        weight_decay: of convolution and linear weights.
        threshold_decay: of STR thresholds; None decays them like the weights.
        warmup_epochs: linear warm-up before the cosine.
        label_smoothing: mass given to the other classes.
        seed: of the order of the images, and of dropout and the like.

    Raises:
        UsageError: a value is out of range.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.875
    weight_decay: float = 5e-4
    threshold_decay: float | None = None
    warmup_epochs: int = 2
    label_smoothing: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        self.to_train_config()
        self.schedule  # noqa: B018 - it checks warmup_epochs

    @property
    def schedule(self) -> LearningRate:
        """Linear warm-up, then a cosine to zero; `epochs` may end within the warm-up."""
        return LearningRate(
            kind="cosine",
            base=self.learning_rate,
            epochs=max(self.epochs, self.warmup_epochs + 1),
            warmup_epochs=self.warmup_epochs,
        )

    def to_train_config(self) -> TrainConfig:
        """The same as a configuration of `strzoo.train`, but for the schedule."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return TrainConfig(
            **{**values, "warmup_epochs": 0.0}, augmentation="none", channels_last=False
        )


@dataclass(frozen=True)
class EpochResult:
    """One epoch: mean training loss, training top-1 (percent), last learning rate, and the
    sparsity (percent) of the sparse layers' effective weights."""

    epoch: int
    loss: float
    top1: float
    learning_rate: float
    sparsity: float


def fit(
    model: nn.Module,
    data: ImageSet,
    config: FitConfig | None = None,
    *,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> list[EpochResult]:
    """Train `model` in place, on the device of its parameters; leaves it in evaluation mode.

    The same seed, data and machine give the same weights; the global random state is untouched.

    Args:
        model: maps [N, 3, H, W] to [N, classes].
        data: the training images.
        config: hyperparameters.
        on_epoch: called after each epoch.

    Raises:
        UsageError: fewer images than one batch.
        StrzooError: the loss is no longer finite.
    """
    config = config or FitConfig()
    device = next(model.parameters()).device
    history: list[EpochResult] = []

    def report(event: Event) -> None:
        if isinstance(event, EpochDone):
            record = event.record
            history.append(
                EpochResult(
                    record.epoch, record.train_loss, record.train_top1, record.learning_rate,
                    measure_sparsity(model),
                )
            )  # fmt: skip
            if on_epoch is not None:
                on_epoch(history[-1])

    settings = config.to_train_config()
    images = MemoryLoader(data.images, data.labels, settings, device)
    with preserved_randomness():
        trainer = Trainer(
            settings,
            Network(model),
            DataSets(images, None, f"{len(images)} images"),
            device=device,
            schedule=config.schedule,
            on_event=report,
        )
        trainer.run()
    model.eval()
    return history


@torch.no_grad()
def measure_sparsity(model: nn.Module) -> float:
    """Percent of zeros among the effective weights of the sparse layers; 0 if there are none."""
    total = zeros = 0
    for layer in sparse_layers(model).values():
        weight: Tensor = layer.effective_weight()
        total += weight.numel()
        zeros += weight.numel() - int(torch.count_nonzero(weight))
    return 100.0 * zeros / total if total else 0.0
