"""From a configuration to the things that train: network, optimizer, schedule and the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from strzoo.devices import find_device
from strzoo.distributed import Group
from strzoo.errors import UsageError
from strzoo.hub.resolve import resolve
from strzoo.hub.source import CardSource
from strzoo.models.create import create_model
from strzoo.settings import Settings
from strzoo.sparse.sparsify import prunable_layers, sparse_layers, sparsify_
from strzoo.training.averaging import WeightAverage
from strzoo.training.config import TrainConfig
from strzoo.training.finetuning import Frozen, ZeroMask, load_pretrained
from strzoo.training.initialisation import Initialisation, initialise_
from strzoo.training.normalisation import share_statistics
from strzoo.training.optimisation import parameter_groups
from strzoo.training.pruning import PruneRates, apply_gmp_rates, apply_rates, resolve_rates
from strzoo.training.schedules import LearningRate
from strzoo.training.sparsity_target import SparsityController, TargetSparsity

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_GAMMAS = {"multistep": 0.1, "exponential": 0.97}


@dataclass
class Network:
    """The network of a run and what holds parts of it: final prune rates (DNW, GMP), zeros kept
    from a pretrained one, frozen parts."""

    model: nn.Module
    rates: PruneRates | None = None
    mask: ZeroMask | None = None
    frozen: Frozen | None = None

    def train(self) -> None:
        """Training mode, except for what is frozen."""
        self.model.train()
        if self.frozen is not None:
            self.frozen.hold()

    def prune(self, config: TrainConfig, epoch: float, model: nn.Module | None = None) -> None:
        """Set the prune rates of this moment (GMP; DNW's never change), of a copy if given."""
        if self.rates is not None and config.method == "gmp":
            start, end = config.prune_start, config.prune_end
            apply_gmp_rates(model or self.model, self.rates, epoch=epoch, start=start, end=end)


def build_network(
    config: TrainConfig,
    device: torch.device | None = None,
    *,
    group: Group | None = None,
    settings: Settings | None = None,
) -> Network:
    """The network as training begins; its random weights come from torch's global generator.

    Raises:
        UsageError, UnknownNameError: a value does not fit this architecture.
        StrzooError and its subclasses: the pretrained weights or the budget cannot be had.
    """
    device = device or torch.device("cpu")
    if config.start_from is not None:
        model = _pretrained(config, settings)
    else:
        model = create_model(
            config.architecture, num_classes=config.num_classes, **_options(config)
        )
        how = Initialisation(config.initialisation, config.fan, density=config.init_density)
        if how != Initialisation():  # create_model's own
            initialise_(model, how)
    rates = None
    if config.method != "dense" and not sparse_layers(model):
        skip = find_dense(model, config.keep_dense)
        if config.method == "str":
            sparsify_(model, "str", skip=skip, threshold=config.threshold, s_init=config.s_init)
        else:
            sparsify_(model, config.method, skip=skip)
            source = config.budget if config.budget is not None else config.prune_rate
            assert source is not None
            rates = resolve_rates(model, source, settings=settings)
            if config.method == "dnw":
                apply_rates(model, rates)
    if config.sync_batchnorm and group is not None and group.world > 1:
        model = share_statistics(model, device)
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    mask = ZeroMask(model) if config.start_from is not None and config.keep_mask else None
    frozen = Frozen(model, config.freeze) if config.freeze else None
    return Network(model, rates, mask, frozen)


def _pretrained(config: TrainConfig, settings: Settings | None) -> nn.Module:
    assert config.start_from is not None
    source = resolve(config.start_from, settings=settings)
    format: str | None = "dense"
    if config.method == "str":  # a file's own form; of an id the one with thresholds
        format = None
        if isinstance(source, CardSource):
            assert source.card is not None
            format = "str" if "str" in source.card.files else "dense"
            source = resolve(config.start_from, format=format, settings=settings)
    model = load_pretrained(source, num_classes=config.num_classes, format=format)
    found = source.architecture
    if found != config.architecture:
        raise UsageError(
            f"start_from={config.start_from} is a {found}, not a {config.architecture}; set "
            f"architecture={found}"
        )
    return model


def _options(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `create_model` that were set; it refuses those the architecture lacks."""
    plain = TrainConfig()
    names = ("small_stem", "head_bias", "width")
    chosen = {n: getattr(config, n) for n in names}
    return {name: value for name, value in chosen.items() if value != getattr(plain, name)}


def find_dense(model: nn.Module, keep_dense: tuple[str, ...]) -> list[str]:
    """Layer names or patterns for `keep_dense`: "first" and "last" become the layers' names."""
    names = list(prunable_layers(model))
    ends = {"first": names[0], "last": names[-1]}
    return [ends.get(pattern, pattern) for pattern in keep_dense]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD over the three parameter groups.

    Raises:
        UsageError: everything is frozen.
    """
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        threshold_decay=config.threshold_decay,
        decay_normalisation=config.decay_normalisation,
    )
    if not groups:
        raise UsageError(f"freeze={','.join(config.freeze)} leaves nothing to train")
    return torch.optim.SGD(
        groups,
        lr=config.peak_learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def build_schedule(config: TrainConfig) -> LearningRate:
    """The learning rate over the epochs."""
    gamma = _GAMMAS.get(config.schedule, 1.0) if config.gamma is None else config.gamma
    return LearningRate(
        config.schedule,
        config.peak_learning_rate,
        config.epochs,
        config.warmup_epochs,
        config.milestones,
        gamma,
        config.gamma_epochs,
    )


def build_target(config: TrainConfig) -> TargetSparsity | None:
    """Where the controller steers the sparsity of STR; None without a target."""
    if config.target_sparsity is None:
        return None
    return TargetSparsity(config.target_sparsity, config.target_start, config.target_end)


@dataclass
class Machine:
    """What the device needs: the network as it is called, precision, loss scaling."""

    device: torch.device
    group: Group
    precision: str
    call: Callable[[Tensor], Tensor]
    wrapped: DistributedDataParallel | None
    scaler: torch.amp.GradScaler

    def autocast(self) -> torch.autocast:
        dtype = _DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def waiting(self, more: bool) -> contextlib.AbstractContextManager[None]:
        """Around a part of a batch: gradients are exchanged only when no `more` parts follow."""
        if self.wrapped is None or not more:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[None] = self.wrapped.no_sync()
        return context


def build_machine(
    model: nn.Module, config: TrainConfig, device: torch.device, group: Group
) -> Machine:
    """Wrap the network for several processes and for compilation."""
    precision = choose_precision(config, device)
    wrapped = None
    if group.world > 1:
        wrapped = DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None
        )
    call: Any = wrapped or model
    if config.compile:
        call = torch.compile(call)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return Machine(device, group, precision, call, wrapped, scaler)


def choose_precision(config: TrainConfig, device: torch.device) -> str:
    """The precision that "auto" means on this device.

    Raises:
        UsageError: tf32 is asked of a CPU.
    """
    if config.precision == "auto":
        return "tf32" if device.type == "cuda" else "fp32"
    if config.precision == "tf32" and device.type != "cuda":
        raise UsageError("precision=tf32 is for GPUs; choose fp32 or bf16")
    return config.precision


def choose_device(config: TrainConfig) -> torch.device:
    """The device of this process. Errors as `find_device`."""
    return find_device(config.device)


def build_average(model: nn.Module, config: TrainConfig) -> WeightAverage | None:
    """The moving average of the weights, if asked for."""
    return None if config.ema_decay is None else WeightAverage(model, config.ema_decay)


def build_controller(
    model: nn.Module, config: TrainConfig, steps: int
) -> SparsityController | None:
    """The controller of the total sparsity, if there is a target."""
    target = build_target(config)
    return None if target is None else SparsityController(model, target, steps)
