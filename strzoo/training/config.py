"""TrainConfig: everything a training run depends on, as one frozen, checked record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from strzoo.arguments import check_fields
from strzoo.errors import UsageError
from strzoo.training.keys import (
    CLOSED_FRACTION,
    DENSITY,
    FIXED,
    FRACTION,
    FREE,
    GROWS,
    NOT_NEGATIVE,
    POSITIVE,
    key,
)

METHODS = ("dense", "str", "dnw", "gmp")
THRESHOLDS = ("layer", "global", "filter", "weight")
SCHEDULES = ("cosine", "constant", "multistep", "exponential")
INITIALISATIONS = ("kaiming_normal", "signed_constant", "unsigned_constant", "default")
FANS = ("fan_in", "fan_out")
DATASETS = ("folder", "cifar10", "cifar100", "digits")
AUGMENTATIONS = ("resized_crop_flip", "pad_crop_flip", "pad_crop", "none")
REPRODUCE, REPRODUCTIONS = "reproduce", ("false", "original")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Epochs may be fractional where they name a moment; rates and sparsities are
    fractions in [0, 1]. Each field says what it is in its `about`.

    Raises:
        UsageError: a value is out of range, or two of them exclude each other.
    """

    recipe: str = key("", "the recipe this began as", resuming=FREE)
    about: str = key("", "what it is and where its hyperparameters come from", resuming=FREE)

    reproduce: str = key(
        "false", "original: whatever the keys about it leave open is as in the published code of "
        "STR (docs/training.md)", choices=REPRODUCTIONS, resuming=FIXED,
    )  # fmt: skip

    architecture: str = key(
        "resnet50", "resnet18, resnet50, resnet20 or mobilenetv1", resuming=FIXED
    )
    num_classes: int = key(
        1000, "outputs of the network; the data set must have as many classes",
        within=POSITIVE, resuming=FIXED,
    )  # fmt: skip
    small_stem: bool = key(
        False, "keep the resolution in the first layer, for 32x32 images", resuming=FIXED
    )
    width: float = key(
        1.0, "multiplies the channels of mobilenetv1", within=POSITIVE, resuming=FIXED
    )
    head_bias: bool | None = key(
        None, "a classifier with bias; none: with reproduce=original, if a ResNet's last layer is "
        "kept dense", resuming=FIXED,
    )  # fmt: skip
    initialisation: str = key("kaiming_normal", "of all convolutions", choices=INITIALISATIONS)
    default_initialisation: tuple[str, ...] | None = key(
        None, "layers that begin as torch makes them, as in keep_dense; none: with "
        "reproduce=original all of mobilenetv1 but fc, and a first or last layer kept dense",
    )  # fmt: skip
    fan: str = key("fan_in", "of the initialisation", choices=FANS)
    init_density: float = key(
        1.0, "scaled fan: the fraction of weights that will stay", within=DENSITY
    )
    start_from: str | None = key(None, "fine-tune this model id or checkpoint file", resuming=FIXED)
    keep_mask: bool = key(
        True, "with start_from: weights that are zero there stay zero", resuming=FIXED
    )
    freeze: tuple[str, ...] = key(
        (), "parts that do not train: names or globs, as layer1,*.bn1", resuming=FIXED
    )

    method: str = key("dense", "how weights become zero", choices=METHODS, resuming=FIXED)
    threshold: str = key(
        "layer", "what one STR threshold covers", choices=THRESHOLDS, resuming=FIXED
    )
    s_init: float = key(-3200.0, "initial STR threshold parameter s; the threshold is sigmoid(s)")
    target_sparsity: float | None = key(
        None, "STR: steer the total sparsity to this fraction",
        within=FRACTION, percent=True, resuming=FIXED,
    )  # fmt: skip
    target_start: float = key(
        0.1, "target_sparsity: the rise begins at this fraction of training",
        within=CLOSED_FRACTION, resuming=FIXED,
    )  # fmt: skip
    target_end: float = key(
        0.9, "target_sparsity: the target is reached, and held from then on",
        within=CLOSED_FRACTION, resuming=FIXED,
    )  # fmt: skip
    prune_rate: float | None = key(
        None, "DNW, GMP: the fraction of weights every layer drops", within=FRACTION, percent=True
    )
    budget: str | None = key(
        None, "DNW, GMP: rates per layer, from a budget, a model id, or an STR checkpoint file"
    )
    budget_fp32: bool | None = key(
        None, "budget from a checkpoint: the kept share of a layer in fp32", open_to=REPRODUCE
    )
    prune_truncate: bool | None = key(
        None, "DNW, GMP: drop int(rate x weights) weights, not the nearest number",
        open_to=REPRODUCE, resuming=FIXED,
    )  # fmt: skip
    prune_per_epoch: bool | None = key(
        None,
        "GMP: the rate changes with the epoch, of prune_end - prune_start + 1",
        open_to=REPRODUCE,
    )
    prune_start: float = key(20.0, "GMP: epoch at which pruning starts", within=NOT_NEGATIVE)
    prune_end: float = key(79.0, "GMP: epoch at which the final rate is reached")
    keep_dense: tuple[str, ...] = key(
        (), "layers left dense: first, last, or glob patterns", resuming=FIXED
    )

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
    label_smoothing: float = key(0.1, "mass given to the other classes", within=FRACTION)
    ema_decay: float | None = key(
        None, "keep an exponential moving average of the weights",
        within=FRACTION, resuming=FIXED,
    )  # fmt: skip

    dataset: str = key(
        "folder", "images: a folder of classes (as ImageNet) or a known set",
        choices=DATASETS, resuming=FIXED,
    )  # fmt: skip
    data: str | None = key(
        None, "folder of the data set (train/ and val/), or CIFAR's files", resuming=FREE
    )
    validation: str | None = key(
        None, "validation images, if they are not found in data", resuming=FREE
    )
    augmentation: str = key("resized_crop_flip", "of the training images", choices=AUGMENTATIONS)
    padding: int = key(4, "pixels around the image for pad_crop", within=NOT_NEGATIVE)
    image_size: int = key(
        224, "pixels of a side that the network sees (file-based data sets)", within=POSITIVE
    )
    workers: int | None = key(
        None, "decoding processes; none: one per core", within=NOT_NEGATIVE, resuming=FREE
    )

    device: str | None = key(
        None, "cpu, cuda or cuda:N; none: a GPU if there is one", resuming=FREE
    )
    threads: int | None = key(
        None,
        "of a CPU; none: torch's number, and 1 for small images",
        within=POSITIVE,
        resuming=FREE,
    )
    precision: str = key("auto", "auto is fp32 on the CPU and tf32 on a GPU", choices=PRECISIONS)
    channels_last: bool = key(True, "memory layout of weights and images")
    compile: bool = key(False, "torch.compile the network")
    sync_batchnorm: bool = key(False, "BatchNorm statistics over all processes")
    seed: int = key(0, "of weights, order and augmentation", resuming=FIXED)

    output: str | None = key(None, "run folder; none: runs/RECIPE", resuming=FREE)
    resume: str | None = key(
        None, "auto: go on if the run folder has a checkpoint; or a file", resuming=FREE
    )
    checkpoint_every: int = key(
        0, "steps between checkpoints, besides the end of each epoch",
        within=NOT_NEGATIVE, resuming=FREE,
    )  # fmt: skip
    log_every: int = key(50, "steps between log lines and scalars", within=POSITIVE, resuming=FREE)
    tensorboard: bool = key(True, "write TensorBoard scalars (extra strzoo[train])", resuming=FREE)

    def __post_init__(self) -> None:
        check_fields(self)
        for one in fields(self):
            self._check_value(one.name, getattr(self, one.name), one.metadata)
        if not self.target_start <= self.target_end:
            raise UsageError(
                f"target_start={self.target_start:g} and target_end={self.target_end:g} are "
                "fractions of the training, in order"
            )
        self._check_method()
        self._check_schedule()

    @staticmethod
    def _check_value(name: str, value: Any, about: Mapping[str, Any]) -> None:
        if about["choices"] and value not in about["choices"]:
            raise UsageError(f"{name}={value!r} is not one of {', '.join(about['choices'])}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name}={value} is not finite")
        within = about["within"]
        if within is None or value is None or within.holds(value):
            return
        hint = f"; 90 % is {name}=0.9" if about["percent"] and value > 1 else ""
        raise UsageError(f"{name}={value} {within.text}{hint}")

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

    def is_on(self, name: str) -> bool:
        """Whether a key that may be left to `reproduce` (true, false or none) is on."""
        value: bool | None = getattr(self, name)
        return self.reproduce == "original" if value is None else value

    @property
    def has_head_bias(self) -> bool:
        """Whether the classifier has a bias: the published ResNets have one if it is dense."""
        if self.head_bias is not None:
            return self.head_bias
        open_end = "last" in self.keep_dense and self.architecture.startswith("resnet")
        return self.reproduce == "original" and open_end

    @property
    def torch_initialised(self) -> tuple[str, ...]:
        """Layers that begin as torch makes them: names, patterns, "first", "last"."""
        if self.default_initialisation is not None:
            return self.default_initialisation
        if self.reproduce != "original":
            return ()
        if self.architecture == "mobilenetv1":  # its builder passes the initialisation by
            return ("model.*",)
        return tuple(end for end in ("first", "last") if end in self.keep_dense)

    @property
    def reproduced(self) -> tuple[str, ...]:
        """The keys that are as in the published code and not as strzoo's own form has them."""
        names = [
            one.name for one in fields(self) if one.metadata["open_to"] and self.is_on(one.name)
        ]
        names += ["head_bias"] if self.has_head_bias else []
        return (*names, *(["default_initialisation"] if self.torch_initialised else []))

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, scaled to this batch size if `scale_lr` asks for it."""
        factor = self.batch_size / self.lr_batch_size if self.scale_lr else 1.0
        return self.learning_rate * factor

    @property
    def run_folder(self) -> str:
        return self.output or f"runs/{self.recipe or self.architecture}"
