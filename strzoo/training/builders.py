"""From a configuration to the things that train: network, optimizer, schedule and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from strzoo.distributed import Group
from strzoo.errors import UsageError
from strzoo.models.create import create_model, create_with_weights
from strzoo.models.external_names import is_external
from strzoo.settings import Settings
from strzoo.sparse.selection import magnitude_layers, sparse_layers
from strzoo.sparse.sparsify import sparsify_
from strzoo.training.averaging import WeightAverage
from strzoo.training.config import TrainConfig
from strzoo.training.dotted import call_dotted
from strzoo.training.finetuning import Frozen, ZeroMask
from strzoo.training.initialisation import Initialisation, initialise_
from strzoo.training.normalisation import share_statistics
from strzoo.training.optimisation import groups_by_name, parameter_groups, scale_by_depth
from strzoo.training.pretrained import build_pretrained, check_mask, match_layers
from strzoo.training.pruning import PruneRates, apply_gmp_rates, apply_rates, resolve_rates
from strzoo.training.sampler import BatchSampler
from strzoo.training.schedules import LearningRate
from strzoo.training.sparsity_target import SparsityController, TargetSparsity

_OPTIMIZERS = {"sgd": "torch.optim.SGD", "adamw": "torch.optim.AdamW"}
_GAMMAS = {"multistep": 0.1, "exponential": 0.97}


@dataclass
class Network:
    """The network of a run, and what is done to it besides the optimizer's steps: final prune
    rates (DNW, GMP), zeros kept from a pretrained network, frozen parts. `notes` are worth
    reading."""

    model: nn.Module
    rates: PruneRates | None = None
    mask: ZeroMask | None = None
    frozen: Frozen | None = None
    notes: tuple[str, ...] = ()

    def train(self) -> None:
        """Training mode, except for what is frozen."""
        self.model.train()
        if self.frozen is not None:
            self.frozen.hold()

    def prune(self, config: TrainConfig, epoch: float, model: nn.Module | None = None) -> None:
        """Set the prune rates of this moment (GMP; DNW's never change).

        Args:
            config: prune_start, prune_end and the epochs.
            epoch: epochs done, a fraction in mid-epoch.
            model: a copy of the network to set them in instead.
        """
        if self.rates is not None and config.method == "gmp":
            start, end = config.prune_span
            apply_gmp_rates(
                model or self.model, self.rates, epoch=epoch, start=start, end=end,
                per_epoch=config.is_on("prune_per_epoch"),
            )  # fmt: skip


def build_network(
    config: TrainConfig,
    device: torch.device | None = None,
    *,
    group: Group | None = None,
    settings: Settings | None = None,
) -> Network:
    """The network as training begins; its random weights come from torch's global generator.

    Args:
        config: architecture, method, start_from and the keys about them.
        device: where it goes; the CPU by default.
        group: the processes that share BatchNorm statistics, with sync_batchnorm.
        settings: where pretrained weights come from; from the environment by default.

    Raises:
        UsageError, UnknownNameError: a value does not fit this architecture.
        StrzooError and its subclasses: the pretrained weights or the budget cannot be had.
    """
    device = device or torch.device("cpu")
    notes: tuple[str, ...] = ()
    if config.start_from is not None:
        begun = build_pretrained(config, settings)
        model, notes = begun.model, begun.notes
    elif config.pretrained:
        settings = settings or Settings.from_env()
        model = create_with_weights(
            config.architecture, config.num_classes, _options(config), offline=settings.offline
        )
    else:
        model = create_model(
            config.architecture, num_classes=config.num_classes, **_options(config)
        )
        how = Initialisation(config.initialisation, config.fan, density=config.init_density)
        if how != Initialisation():  # create_model's own
            initialise_(model, how)
        if config.torch_initialised:
            layers = match_layers(model, config.torch_initialised)
            initialise_(model, Initialisation("default"), layers=layers)
    rates = None
    if config.method != "dense" and not sparse_layers(model):
        skip = match_layers(model, config.keep_dense)
        if config.method == "str":
            sparsify_(
                model,
                "str",
                skip=skip,
                threshold=config.threshold,
                s_init=config.s_init,
                block=config.block,
            )
        else:
            sparsify_(model, config.method, skip=skip, block=config.block)
            source = config.budget if config.budget is not None else config.prune_rate
            assert source is not None
            for layer in magnitude_layers(model).values():
                layer.truncate = config.is_on("prune_truncate")
            single = config.is_on("budget_fp32")
            rates = resolve_rates(model, source, single_precision=single, settings=settings)
            if config.method == "dnw":
                apply_rates(model, rates)
    model, cast = _in_usual_precision(model)
    notes = (*notes, *cast)
    if config.sync_batchnorm and group is not None and group.world > 1:
        model = share_statistics(model, device)
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    mask = None
    if config.start_from is not None and config.keep_mask:
        mask = ZeroMask(model)
        check_mask(mask, config)
    frozen = Frozen(model, config.freeze) if config.freeze else None
    if config.checkpoint_activations:
        _checkpoint_activations(model)
    return Network(model, rates, mask, frozen, notes)


def _in_usual_precision(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with weights of torch's default type, float32, which the optimizer's small steps
    need and the images have, and a note if its code makes others."""
    wanted = torch.get_default_dtype()
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {wanted}
    if not kinds:
        return model, ()
    found, single = sorted(map(_name_type, kinds)), _name_type(wanted)
    note = (
        f"its weights of {' and '.join(found)} are trained in {single}; precision=bf16 or fp16 "
        "says what it computes in"
    )
    return model.to(wanted), (note,)


def _name_type(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _checkpoint_activations(model: nn.Module) -> None:
    able = getattr(model, "set_grad_checkpointing", None)
    if not callable(able):
        raise UsageError(
            f"checkpoint_activations: a {type(model).__name__} does not offer it (timm's networks "
            "do); use accumulate=2 to save memory"
        )
    able(True)


def _options(config: TrainConfig) -> dict[str, Any]:
    """Arguments of `create_model` that were set; it refuses those the architecture lacks."""
    if is_external(config.architecture):
        return dict(config.model_args)
    chosen = {
        "small_stem": config.small_stem,
        "head_bias": config.has_head_bias,
        "width": config.width,
    }
    plain = {"small_stem": False, "head_bias": False, "width": 1.0}
    return {name: value for name, value in chosen.items() if value != plain[name]}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over the three groups of `parameter_groups`, or those of the published code.

    A group with `lr_scale` learns at that part of the rate.

    Args:
        model: the network; parameters without gradients are left out.
        config: optimizer, rate, momentum, decays and layer_decay.

    Raises:
        UsageError: everything is frozen, or the optimizer does not take its arguments.
        StrzooError: its code, or timm for layer_decay, cannot be imported.
    """
    grouped = groups_by_name if config.is_on("groups_by_name") else parameter_groups
    groups = grouped(
        model,
        weight_decay=config.weight_decay,
        threshold_decay=config.threshold_decay,
        decay_normalisation=config.is_on("decay_normalisation"),
    )
    parameters = [parameter for group in groups for parameter in group["params"]]
    if not parameters:
        raise UsageError(f"freeze={','.join(config.freeze)} leaves nothing to train")
    if config.layer_decay is not None:
        groups = scale_by_depth(model, groups, config.layer_decay)
    arguments = dict(config.optimizer_args)
    if config.optimizer in _OPTIMIZERS:
        arguments = {"fused": parameters[0].is_cuda or None, **arguments}
    if config.optimizer == "sgd":
        arguments = {"momentum": config.momentum, "nesterov": config.nesterov, **arguments}
    path = _OPTIMIZERS.get(config.optimizer, config.optimizer)
    arguments = {"lr": config.peak_learning_rate, **arguments}
    made = call_dotted(path, arguments, "optimizer", groups)
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(f"optimizer={config.optimizer} makes no torch.optim.Optimizer")
    return made


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
        per_epoch=config.is_on("lr_per_epoch"),
        continuous=config.is_on("gamma_continuous"),
        least=config.min_learning_rate,
    )


def build_sampler(config: TrainConfig, images: int, processes: int = 1) -> BatchSampler:
    """Which images make each step.

    Args:
        config: batch size, parts, seed, and what becomes of the last images.
        images: of the training set.
        processes: that share each step.

    Raises:
        UsageError: as `BatchSampler`.
    """
    return BatchSampler(
        images, config.batch_size, config.seed, processes, config.accumulate,
        config.is_on("keep_last_batch"),
    )  # fmt: skip


def build_target(config: TrainConfig) -> TargetSparsity | None:
    """Where the controller brings the sparsity of STR; None without a target."""
    if config.target_sparsity is None:
        return None
    return TargetSparsity(config.target_sparsity, config.target_start, config.target_end)


def build_average(model: nn.Module, config: TrainConfig) -> WeightAverage | None:
    """The moving average of the weights, if asked for."""
    return None if config.ema_decay is None else WeightAverage(model, config.ema_decay)


def build_controller(
    model: nn.Module, config: TrainConfig, steps: int
) -> SparsityController | None:
    """The controller of the total sparsity, if there is a target.

    Args:
        model: with STR layers.
        config: target_sparsity, target_start and target_end.
        steps: optimizer steps of the whole training.

    Raises:
        UsageError: the target is out of reach.
    """
    target = build_target(config)
    return None if target is None else SparsityController(model, target, steps)
