"""fit: train any network on any images, in place.

SGD with momentum, linear warm-up and cosine learning rate, label smoothing: the recipe of the
STR paper (appendix), shortened. The loop is that of `strzoo.train`, without a run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from strzoo.arguments import check_fields, checked
from strzoo.devices import cpu_threads
from strzoo.errors import UsageError
from strzoo.sparse.selection import sparse_layers
from strzoo.training.builders import Network
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import DataSets
from strzoo.training.fit_data import FitData, open_fit_data
from strzoo.training.loop import Trainer
from strzoo.training.random_state import preserved_randomness, seed_all
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
        augmentation: of a folder's images and of tensors: resized_crop_flip (folders),
            pad_crop_flip, pad_crop or none.
        image_size: pixels of a side that the network sees of a folder's images.
        workers: processes that decode a folder's images (None: one per core) or load the items of
            a data set (None: none).
        threads: of the CPU; None is torch's number, and 1 for small images.

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
    augmentation: str = "none"
    image_size: int = 224
    workers: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
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
        return TrainConfig(**{**values, "warmup_epochs": 0.0}, channels_last=False)


@dataclass(frozen=True)
class EpochResult:
    """One epoch: mean training loss, training top-1 (percent), last learning rate, and the
    sparsity (percent) of the sparse layers' effective weights."""

    epoch: int
    loss: float
    top1: float
    learning_rate: float
    sparsity: float


@checked
def fit(
    model: nn.Module,
    data: FitData,
    config: FitConfig | None = None,
    *,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> list[EpochResult]:
    """Train `model` in place, on the device of its parameters; leaves it in evaluation mode.

    The same seed, data and machine give the same weights; the global random state is untouched.

    Args:
        model: maps images [N, 3, H, W] to logits [N, classes], or to what holds such, as a dict
            with `logits`. It is tried on blank images first, and left as it was.
        data: the training images: a folder (of class folders, or with such a folder `train` in
            it), whose images are resized, cropped and normalised as ImageNet's (grey ones for a
            network of one channel); an `ImageSet`; a pair of tensors, float [N, 3, H, W] and class
            numbers [N]; a torch `Dataset` of such images and numbers; or a `DataLoader` or another
            iterable of batches with a length, which then decides on batch size and order.
        config: hyperparameters.
        on_epoch: called after each epoch.

    Returns:
        The epochs, in order.

    Raises:
        UsageError: the data is nothing of that kind, does not fit the network, or has fewer
            images than one batch.
        StrzooError and its subclasses: an image cannot be read, or the loss is no longer finite.
    """
    config = config or FitConfig()
    first = next(model.parameters(), None)
    if first is None:
        raise UsageError(f"a {type(model).__name__} has no parameters to train")
    device = first.device
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
    with preserved_randomness():
        seed_all(config.seed)
        images = open_fit_data(model, data, settings, device)
        name = f"{len(images.loader)} images"
        trainer = Trainer(
            replace(settings, batch_size=images.batch, num_classes=images.classes),
            Network(model),
            DataSets(
                images.loader,
                None,
                name,
                images.shape,
                image_type=images.type,
                smallest=images.smallest,
            ),
            device=device,
            schedule=config.schedule,
            on_event=report,
        )
        trainer.try_out()
        with cpu_threads(trainer.threads):
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
