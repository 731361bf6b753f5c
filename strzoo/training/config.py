"""TrainConfig: everything a training run depends on, as one frozen, checked record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from strzoo.arguments import check_fields
from strzoo.data.preprocessing import CHANNELS
from strzoo.errors import UsageError
from strzoo.models.external_names import is_external
from strzoo.training.config_data import DataKeys
from strzoo.training.config_network import NetworkKeys
from strzoo.training.config_run import RunKeys
from strzoo.training.config_sparsity import SparsityKeys
from strzoo.training.config_steps import StepKeys
from strzoo.training.keys import ARGUMENTS, freeze_arguments, is_dotted

_MOST_EPOCHS = 100_000  # a plan lists them all


@dataclass(frozen=True)
class TrainConfig(RunKeys, DataKeys, StepKeys, SparsityKeys, NetworkKeys):
    """A training run. Epochs may be fractional where they name a moment; rates and sparsities are
    fractions in [0, 1]. Each field says what it is in its `about`.

    Raises:
        UsageError: a value is out of range, or two of them exclude each other.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        for one in fields(self):
            if one.name in ARGUMENTS:
                frozen = freeze_arguments(getattr(self, one.name), one.name)
                object.__setattr__(self, one.name, frozen)
            else:
                self._check_value(one.name, getattr(self, one.name), one.metadata)
        if not self.target_start <= self.target_end:
            raise UsageError(
                f"target_start={self.target_start:g} and target_end={self.target_end:g} are "
                "fractions of the training, in order"
            )
        self._check_network()
        self._check_method()
        self._check_schedule()
        self._check_images()

    @staticmethod
    def _check_value(name: str, value: Any, about: Mapping[str, Any]) -> None:
        choices = about["choices"]
        if choices and value is not None and value not in choices:
            dotted = about["dotted"] and is_dotted(value)
            other = " or the dotted path of your own" if about["dotted"] else ""
            if not dotted:
                raise UsageError(f"{name}={value!r} is not one of {', '.join(choices)}{other}")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
            raise UsageError(f"{name}={value} is not finite")
        within = about["within"]
        if within is None or value is None or within.holds(value):
            return
        hint = f"; 90 % is {name}=0.9" if about["percent"] and value > 1 else ""
        raise UsageError(f"{name}={value} {within.text}{hint}")

    def _check_network(self) -> None:
        elsewhere = is_external(self.architecture)
        for name in ("model_args", "pretrained"):
            if getattr(self, name) and self.architecture and not elsewhere:
                raise UsageError(
                    f"{name} is for timm:NAME, torchvision:NAME and package.module:function, not "
                    f"{self.architecture}; start_from=MODEL begins at a model of the zoo"
                )
        if self.pretrained and self.start_from is not None:
            raise UsageError("pretrained=true and start_from= are two beginnings; choose one")

    def _check_images(self) -> None:
        for name, least in (("crop_area", 0.0), ("crop_ratio", 0.0)):
            value = getattr(self, name)
            if len(value) != 2 or not least < value[0] <= value[1]:
                raise UsageError(f"{name}={value} is not two positive numbers in order, as 0.08,1")
        if self.crop_area[1] > 1:
            raise UsageError(f"crop_area={self.crop_area} is more than the whole image, 1")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and len(value) not in CHANNELS:
                raise UsageError(
                    f"{name}={value} is not three numbers, one for each channel, or one for grey "
                    "images"
                )
        if (self.mean is None) != (self.std is None) and len(self.mean or self.std or ()) == 1:
            raise UsageError("for grey images give both, mean and std, a number each")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise UsageError(
                f"mean={self.mean} and std={self.std} are of other numbers of channels"
            )
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"std={self.std} must be positive")

    def _check_method(self) -> None:
        prunes = self.method in ("dnw", "gmp")
        if self.target_sparsity is not None and self.method != "str":
            raise UsageError(
                f"target_sparsity is for method=str; method={self.method} takes "
                + ("prune_rate or budget" if prunes else "neither target nor budget")
                + "; leave it out, or set target_sparsity=none"
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
        if self.block > 1 and (self.method == "dense" or self.threshold == "weight"):
            raise UsageError(
                f"block={self.block} is for method=str, dnw and gmp, with one threshold for each "
                f"layer or filter, not method={self.method} with threshold={self.threshold}"
            )
        start, end = self.prune_span
        if self.method == "gmp" and not start < end <= self.epochs:
            raise UsageError(
                f"prune_start={start:g} and prune_end={end:g} must be in order and within the "
                f"{self.epochs} epochs; prune_start=none prune_end=none takes them from the epochs"
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
        if self.optimizer != "sgd" and (self.nesterov or self.is_on("groups_by_name")):
            raise UsageError(
                f"nesterov and groups_by_name (reproduce=original) are for optimizer=sgd, not "
                f"{self.optimizer}"
            )
        if self.min_learning_rate > self.peak_learning_rate:
            raise UsageError(
                f"min_learning_rate={self.min_learning_rate:g} is above the peak, "
                f"{self.peak_learning_rate:g}"
            )
        for name, user in (("loss_args", "loss"), ("policy_args", "policy")):
            if getattr(self, name) and getattr(self, user) in (None, "cross_entropy"):
                raise UsageError(f"{name} is for a {user} of your own")
        if self.epochs > _MOST_EPOCHS:
            raise UsageError(f"epochs={self.epochs} is above {_MOST_EPOCHS:,}, more than any run")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise UsageError(
                f"warmup_epochs={self.warmup_epochs:g} leaves nothing of epochs={self.epochs}; "
                f"lower it (warmup_epochs={self.epochs / 5:g} or 0), or raise epochs"
            )

    def is_on(self, name: str) -> bool:
        """Whether a key that may be left to `reproduce` (true, false or none) is on."""
        value: bool | None = getattr(self, name)
        return self.reproduce == "original" if value is None else value

    @property
    def prune_span(self) -> tuple[float, float]:
        """Epochs at which GMP's rates begin to rise and are reached: those that are set, else the
        same parts of the training as in the paper, 20 and 79 of 100."""
        start = self.epochs * 20 / 100 if self.prune_start is None else self.prune_start
        end = self.epochs * 79 / 100 if self.prune_end is None else self.prune_end
        return start, end

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
