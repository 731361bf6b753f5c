"""TrainConfig: everything a training run depends on, as one frozen, checked record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from strzoo.errors import UsageError

METHODS = ("dense", "str", "dnw", "gmp")
THRESHOLDS = ("layer", "global", "filter", "weight")
SCHEDULES = ("cosine", "constant", "multistep", "exponential")
INITIALISATIONS = ("kaiming_normal", "signed_constant", "unsigned_constant")
FANS = ("fan_in", "fan_out")
DATASETS = ("folder", "cifar10", "cifar100", "digits")
AUGMENTATIONS = ("resized_crop_flip", "pad_crop_flip", "pad_crop", "none")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
_CHOICES = {
    "method": METHODS,
    "threshold": THRESHOLDS,
    "schedule": SCHEDULES,
    "initialisation": INITIALISATIONS,
    "fan": FANS,
    "dataset": DATASETS,
    "augmentation": AUGMENTATIONS,
    "precision": PRECISIONS,
}
_POSITIVE = ("num_classes", "width", "epochs", "batch_size", "lr_batch_size", "accumulate",
             "learning_rate", "gamma_epochs", "image_size", "log_every")  # fmt: skip
_NOT_NEGATIVE = ("warmup_epochs", "weight_decay", "threshold_decay", "momentum", "padding",
                 "label_smoothing", "workers", "checkpoint_every", "prune_start")  # fmt: skip


def _key(default: Any, about: str) -> Any:
    """A field with the line that `strzoo train --keys` prints for it."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Epochs may be fractional where they name a moment; rates and sparsities are
    fractions in [0, 1]. Each field says what it is in its `about`.

    Raises:
        UsageError: a value is out of range, or two of them exclude each other.
    """

    recipe: str = _key("", "the recipe this began as")
    about: str = _key("", "what it is and where its hyperparameters come from")

    architecture: str = _key("resnet50", "resnet18, resnet50, resnet20 or mobilenetv1")
    num_classes: int = _key(1000, "outputs of the network; the data set must have as many classes")
    small_stem: bool = _key(False, "keep the resolution in the first layer, for 32x32 images")
    width: float = _key(1.0, "multiplies the channels of mobilenetv1")
    head_bias: bool = _key(False, "a classifier with bias")
    initialisation: str = _key(
        "kaiming_normal", "of all convolutions: " + ", ".join(INITIALISATIONS)
    )
    fan: str = _key("fan_in", "of the initialisation: fan_in or fan_out")
    init_density: float = _key(1.0, "scaled fan: the fraction of weights that will stay")
    start_from: str | None = _key(None, "fine-tune this model id or checkpoint file")
    keep_mask: bool = _key(True, "with start_from: weights that are zero there stay zero")
    freeze: tuple[str, ...] = _key((), "parts that do not train: names or globs, as layer1,*.bn1")

    method: str = _key("dense", ", ".join(METHODS))
    threshold: str = _key("layer", "one STR threshold per layer, filter, weight, or one: global")
    s_init: float = _key(-3200.0, "initial STR threshold parameter s; the threshold is sigmoid(s)")
    target_sparsity: float | None = _key(None, "STR: steer the total sparsity to this fraction")
    target_start: float = _key(0.1, "target_sparsity: the rise begins at this fraction of training")
    target_end: float = _key(0.9, "target_sparsity: the target is reached, and held from then on")
    prune_rate: float | None = _key(None, "DNW, GMP: the fraction of weights every layer drops")
    budget: str | None = _key(
        None, "DNW, GMP: rates per layer, from a budget, a model id, or an STR checkpoint file"
    )
    prune_start: float = _key(20.0, "GMP: epoch at which pruning starts")
    prune_end: float = _key(79.0, "GMP: epoch at which the final rate is reached")
    keep_dense: tuple[str, ...] = _key((), "layers left dense: first, last, or glob patterns")

    epochs: int = _key(100, "passes over the training set")
    batch_size: int = _key(
        256, "images per step, over all processes and accumulated parts together"
    )
    accumulate: int = _key(1, "parts in which each process computes its share of a batch")
    learning_rate: float = _key(0.256, "peak rate, for a global batch of lr_batch_size images")
    lr_batch_size: int = _key(256, "the global batch that learning_rate was chosen for")
    scale_lr: bool = _key(False, "multiply learning_rate by batch_size / lr_batch_size")
    schedule: str = _key("cosine", ", ".join(SCHEDULES))
    warmup_epochs: float = _key(5.0, "linear warm-up before the schedule")
    milestones: tuple[float, ...] = _key((), "multistep: epochs at which the rate falls")
    gamma: float | None = _key(
        None, "factor at a milestone (0.1) or of each step of the exponential schedule (0.97)"
    )
    gamma_epochs: float = _key(2.4, "exponential: epochs between two steps")
    momentum: float = _key(0.875, "of SGD")
    nesterov: bool = _key(False, "Nesterov's form of momentum")
    weight_decay: float = _key(3.0517578125e-5, "of convolution and linear weights")
    threshold_decay: float | None = _key(
        None, "of STR thresholds; none: as the weights (the paper)"
    )
    decay_normalisation: bool = _key(False, "decay BatchNorm parameters and biases too")
    label_smoothing: float = _key(0.1, "mass given to the other classes")
    ema_decay: float | None = _key(None, "keep an exponential moving average of the weights")

    dataset: str = _key(
        "folder", "folder (ImageNet and any classes): train/ and val/; cifar10, cifar100, digits"
    )
    data: str | None = _key(None, "folder of the data set (train/ and val/), or CIFAR's files")
    validation: str | None = _key(None, "validation images, if they are not found in data")
    augmentation: str = _key("resized_crop_flip", ", ".join(AUGMENTATIONS))
    padding: int = _key(4, "pixels around the image for pad_crop")
    image_size: int = _key(224, "pixels of a side that the network sees (file-based data sets)")
    workers: int | None = _key(None, "decoding processes; none: one per core")

    device: str | None = _key(None, "cpu, cuda or cuda:N; none: a GPU if there is one")
    precision: str = _key(
        "auto", "auto is fp32 on the CPU and tf32 on a GPU; " + ", ".join(PRECISIONS)
    )
    channels_last: bool = _key(True, "memory layout of weights and images")
    compile: bool = _key(False, "torch.compile the network")
    sync_batchnorm: bool = _key(False, "BatchNorm statistics over all processes")
    seed: int = _key(0, "of weights, order and augmentation")

    output: str | None = _key(None, "run folder; none: runs/RECIPE")
    resume: str | None = _key(None, "auto: go on if the run folder has a checkpoint; or a file")
    checkpoint_every: int = _key(0, "steps between checkpoints, besides the end of each epoch")
    log_every: int = _key(50, "steps between log lines and scalars")
    tensorboard: bool = _key(True, "write TensorBoard scalars (extra strzoo[train])")

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}"
                )
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{one.name}={value} is not finite")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}={getattr(self, name)} must be positive")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name}={value} must not be negative")
        self._check_fractions()
        self._check_method()
        self._check_schedule()

    def _check_fractions(self) -> None:
        for name in ("target_sparsity", "prune_rate", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                hint = f"; 90 % is {name}=0.9" if value > 1 and name != "ema_decay" else ""
                raise UsageError(f"{name}={value} must be at least 0 and below 1{hint}")
        if not 0 <= self.target_start <= self.target_end <= 1:
            raise UsageError(
                f"target_start={self.target_start:g} and target_end={self.target_end:g} are "
                "fractions of the training, in order"
            )
        for name in ("momentum", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise UsageError(f"{name}={getattr(self, name)} must be below 1")
        for name in ("gamma", "init_density"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{name}={value} must be above 0 and at most 1")

    def _check_method(self) -> None:
        prunes = self.method in ("dnw", "gmp")
        if self.target_sparsity is not None and self.method != "str":
            raise UsageError(
                f"target_sparsity is for method=str; method={self.method} takes "
                + ("prune_rate or budget" if prunes else "neither target nor budget")
            )
        if prunes and (self.prune_rate is None) == (self.budget is None):
            raise UsageError(
                f"method={self.method} needs prune_rate (0.9) or budget (resnet50_str_90.23), one "
                "of them"
            )
        for name in ("prune_rate", "budget"):
            if getattr(self, name) is not None and not prunes:
                hint = "; use target_sparsity" if self.method == "str" else ""
                raise UsageError(f"{name} is for method=dnw and gmp, not {self.method}{hint}")
        if self.method == "dense" and self.keep_dense:
            raise UsageError("keep_dense is for sparse methods; method=dense keeps all dense")
        if self.method == "gmp" and not self.prune_start < self.prune_end <= self.epochs:
            raise UsageError(
                f"prune_start={self.prune_start:g} and prune_end={self.prune_end:g} must be in "
                f"order and within the {self.epochs} epochs"
            )

    def _check_schedule(self) -> None:
        if (self.schedule == "multistep") != bool(self.milestones):
            raise UsageError(
                "schedule=multistep needs milestones=30,60,90"
                if self.schedule == "multistep"
                else f"milestones are for schedule=multistep, not {self.schedule}"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UsageError(f"milestones={self.milestones} must rise")
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov=true needs momentum above 0")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise UsageError(
                f"warmup_epochs={self.warmup_epochs:g} leaves nothing of {self.epochs} epochs; "
                "lower it, or raise epochs"
            )

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, scaled to this batch size if `scale_lr` asks for it."""
        factor = self.batch_size / self.lr_batch_size if self.scale_lr else 1.0
        return self.learning_rate * factor

    @property
    def run_folder(self) -> str:
        return self.output or f"runs/{self.recipe or self.architecture}"
