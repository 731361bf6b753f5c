"""fit: train a network on images in memory. One readable loop, any layer type.

SGD with momentum, linear warm-up and cosine learning rate, label smoothing: the recipe of the
STR paper (appendix), shortened.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strzoo.data.imageset import ImageSet
from strzoo.errors import StrzooError, UsageError
from strzoo.sparse.sparsify import sparse_layers
from strzoo.training.optimisation import parameter_groups
from strzoo.training.schedules import LearningRate


@dataclass(frozen=True)
class FitConfig:
    """How to train. `threshold_decay` None decays STR thresholds like the weights."""

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
        for name in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")

    @property
    def schedule(self) -> LearningRate:
        """Linear warm-up, then a cosine to zero; `epochs` may end within the warm-up."""
        return LearningRate(
            kind="cosine",
            base=self.learning_rate,
            epochs=max(self.epochs, self.warmup_epochs + 1),
            warmup_epochs=self.warmup_epochs,
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
    if len(data) < config.batch_size:
        raise UsageError(f"{len(data)} images are fewer than one batch of {config.batch_size}")
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(
        parameter_groups(
            model, weight_decay=config.weight_decay, threshold_decay=config.threshold_decay
        ),
        lr=config.learning_rate,
        momentum=config.momentum,
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    generator = torch.Generator().manual_seed(config.seed)
    steps = len(data) // config.batch_size
    images, labels = data.images.to(device), data.labels.to(device)
    schedule = config.schedule
    history = []
    for epoch in range(config.epochs):
        model.train()
        order = torch.randperm(len(data), generator=generator).to(device)
        losses = torch.zeros((), device=device)
        correct = torch.zeros((), device=device, dtype=torch.long)
        rate = 0.0
        for step in range(steps):
            rate = schedule.at(epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = order[step * config.batch_size : (step + 1) * config.batch_size]
            logits = model(images[batch])
            loss = loss_function(logits, labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses += loss.detach()
            correct += (logits.argmax(1) == labels[batch]).sum()
        result = EpochResult(
            epoch + 1,
            float(losses) / steps,
            100.0 * int(correct) / (steps * config.batch_size),
            rate,
            measure_sparsity(model),
        )
        if not math.isfinite(result.loss):
            raise StrzooError(
                f"the loss became {result.loss} in epoch {result.epoch}; lower learning_rate "
                f"(now {config.learning_rate})"
            )
        history.append(result)
        if on_epoch is not None:
            on_epoch(result)
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
