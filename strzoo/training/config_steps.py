"""The keys of a training configuration about steps, loss and optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from strzoo.training.config_network import REPRODUCE
from strzoo.training.keys import (
    CLOSED_FRACTION,
    DENSITY,
    FIXED,
    FRACTION,
    GROWS,
    NOT_NEGATIVE,
    POSITIVE,
    key,
)

SCHEDULES = ("cosine", "constant", "multistep", "exponential")
OPTIMIZERS = ("sgd", "adamw")
LOSSES = ("cross_entropy",)


@dataclass(frozen=True)
class StepKeys:
    """The keys of a training configuration about steps, loss and optimizer."""

    epochs: int = key(100, "passes over the training set", within=POSITIVE, resuming=GROWS)
    batch_size: int = key(
        256, "images per step, over all processes and accumulated parts together",
        within=POSITIVE, resuming=FIXED,
    )  # fmt: skip
    keep_last_batch: bool | None = key(
        None,
        "train the last images of an epoch too, which fill no batch",
        open_to=REPRODUCE,
        resuming=FIXED,
    )
    accumulate: int = key(
        1, "parts in which each process computes its share of a batch", within=POSITIVE
    )
    learning_rate: float = key(
        0.256, "peak rate, for a global batch of lr_batch_size images", within=POSITIVE
    )
    lr_batch_size: int = key(
        256, "the global batch that learning_rate was chosen for", within=POSITIVE
    )
    scale_lr: bool = key(False, "multiply learning_rate by batch_size / lr_batch_size")
    schedule: str = key("cosine", "of the learning rate", choices=SCHEDULES)
    warmup_epochs: float = key(5.0, "linear warm-up before the schedule", within=NOT_NEGATIVE)
    lr_per_epoch: bool | None = key(
        None,
        "the rate changes with the epoch; (epoch + 1) / warmup_epochs of it at first",
        open_to=REPRODUCE,
    )
    milestones: tuple[float, ...] = key((), "multistep: epochs at which the rate falls")
    gamma: float | None = key(
        None, "factor at a milestone (0.1) or of each step of the exponential schedule (0.97)",
        within=DENSITY,
    )  # fmt: skip
    gamma_epochs: float = key(2.4, "exponential: epochs between two steps", within=POSITIVE)
    gamma_continuous: bool | None = key(
        None,
        "exponential: gamma to the power of epoch / gamma_epochs, without steps",
        open_to=REPRODUCE,
    )
    min_learning_rate: float = key(
        0.0, "where a cosine ends, and no schedule goes below", within=NOT_NEGATIVE
    )
    optimizer: str = key(
        "sgd", "sgd, adamw, or the dotted path of a class of torch.optim's form",
        choices=OPTIMIZERS, dotted=True, resuming=FIXED,
    )  # fmt: skip
    optimizer_args: tuple[tuple[str, Any], ...] = key(
        (), "optimizer_args.NAME=VALUE: further arguments of the optimizer", resuming=FIXED
    )
    momentum: float = key(0.875, "of SGD", within=FRACTION)
    nesterov: bool = key(False, "Nesterov's form of momentum")
    weight_decay: float = key(
        3.0517578125e-5, "of convolution and linear weights", within=NOT_NEGATIVE
    )
    threshold_decay: float | None = key(
        None, "of STR thresholds; none: as the weights (the paper)", within=NOT_NEGATIVE
    )
    decay_normalisation: bool | None = key(
        None, "decay BatchNorm parameters and biases too", open_to=REPRODUCE
    )
    groups_by_name: bool | None = key(
        None, "tell BatchNorm by 'bn' in the name: the others decay like weights",
        open_to=REPRODUCE, resuming=FIXED,
    )  # fmt: skip
    layer_decay: float | None = key(
        None, "learning rates fall by this factor from the last layers to the first (needs timm)",
        within=DENSITY, resuming=FIXED,
    )  # fmt: skip
    clip_gradient: float | None = key(
        None, "largest norm of the gradient of all parameters together", within=POSITIVE
    )
    loss: str = key(
        "cross_entropy", "cross_entropy, or the dotted path of a class or function of (logits, "
        "labels)", choices=LOSSES, dotted=True,
    )  # fmt: skip
    loss_args: tuple[tuple[str, Any], ...] = key(
        (), "loss_args.NAME=VALUE: arguments that make the loss"
    )
    label_smoothing: float = key(0.1, "mass given to the other classes", within=FRACTION)
    ema_decay: float | None = key(
        None, "keep an exponential moving average of the weights",
        within=FRACTION, resuming=FIXED,
    )  # fmt: skip
    teacher: str | None = key(
        None, "distil from this network as well: a model id or checkpoint file of the same classes"
    )
    distillation: float = key(
        0.5, "share of the loss that compares with the teacher", within=CLOSED_FRACTION
    )
    temperature: float = key(2.0, "at which network and teacher are compared", within=POSITIVE)
