"""plan: what a run would do, found out without training and without data."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from strzoo.arguments import checked
from strzoo.checkpoint import build_checkpoint
from strzoo.devices import autocast, choose_precision, find_device
from strzoo.distributed import Group, read_launcher
from strzoo.errors import UsageError
from strzoo.models.external_names import is_external
from strzoo.settings import Settings, user_path
from strzoo.sparse.selection import prunable_layers, sparse_layers, takes_grey
from strzoo.training.builders import (
    Network,
    build_controller,
    build_network,
    build_optimizer,
    build_sampler,
    build_schedule,
    build_target,
)
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import image_shape, open_datasets
from strzoo.training.pruning import PruneRates
from strzoo.training.random_state import preserved_randomness, seed_all
from strzoo.training.resolving import resolve_config
from strzoo.training.sampler import BatchSampler
from strzoo.training.schedules import gmp_rate
from strzoo.training.trial import blank_images, try_network
from strzoo.zoo.paper import PaperResult, find_paper_result

# Training images of the data sets whose files are not given.
_PUBLISHED_SIZES = {"cifar10": 50_000, "cifar100": 50_000}
_IMAGENET = 1_281_167


@dataclass(frozen=True)
class GroupPlan:
    """A parameter group: how many parameters, and how they decay."""

    name: str
    tensors: int
    parameters: int
    weight_decay: float


@dataclass(frozen=True)
class MomentPlan:
    """The beginning of an epoch (counted from 0; the last row is the end of training): learning
    rate, and the sparsity to expect in percent, None where it is learned."""

    epoch: float
    learning_rate: float
    sparsity: float | None


@dataclass(frozen=True)
class LayerPlan:
    """A convolution or linear layer: weights, its method, and its final prune rate in percent
    (DNW and GMP)."""

    name: str
    weights: int
    method: str
    prune_rate: float | None


@dataclass(frozen=True)
class TrainPlan:
    """What `strzoo train --dry-run` shows. `images` is known from the data, or from its published
    size if `data` says so; None if neither is there, and then the optimizer `steps` (of an epoch)
    and `total_steps` are None too. `part` are the images that a process computes at once.
    `reproduced` are the keys that are as in the published code. `expected` is what the paper
    reports for this recipe, None for others."""

    config: TrainConfig
    data: str
    images: int | None
    steps: int | None
    total_steps: int | None
    part: int
    parameters: int
    device: str
    precision: str
    learning_rate_rule: str
    rates_source: str | None
    groups: tuple[GroupPlan, ...]
    layers: tuple[LayerPlan, ...]
    moments: tuple[MomentPlan, ...]
    reproduced: tuple[str, ...] = ()
    expected: PaperResult | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


@checked
def plan(
    config: TrainConfig, *, processes: int | None = None, settings: Settings | None = None
) -> TrainPlan:
    """Build everything but train nothing.

    Args:
        config: of the run. Without `data`, or where it is not on this machine, the published
            size of the data set is assumed.
        processes: of the run; those of torchrun by default.
        settings: where pretrained weights come from; from the environment by default.

    Returns:
        What the run would do.

    Raises:
        StrzooError: as `train` would before its first step.
    """
    config = resolve_config(config, settings)
    if processes is not None and processes < 1:
        raise UsageError(f"processes is {processes}; it must be at least 1")
    device = find_device(config.device)
    count = read_launcher().world if processes is None else processes
    images, data = _count_images(config)
    sampler = build_sampler(config, config.batch_size if images is None else images, count)
    steps = sampler.steps_per_epoch
    # Without a target and pretrained weights nothing depends on values: none are made.
    valued = config.target_sparsity is not None or config.start_from is not None
    place = torch.device("cpu" if valued or is_external(config.architecture) else "meta")
    network = _build(config, place, sampler, settings)
    model = network.model
    groups = tuple(
        GroupPlan(
            group["name"],
            len(group["params"]),
            sum(p.numel() for p in group["params"]),
            group["weight_decay"],
        )
        for group in build_optimizer(model, config).param_groups
    )
    sparse = sparse_layers(model)
    layers = tuple(
        LayerPlan(
            name,
            _weights(layer),
            sparse[name].method if name in sparse else "dense",
            100 * network.rates.layers[name] if network.rates and name in sparse else None,
        )
        for name, layer in prunable_layers(model).items()
    )
    build_controller(model, config, config.epochs * steps)  # refuses a target out of reach
    return TrainPlan(
        config=config,
        data=data,
        images=images,
        steps=None if images is None else steps,
        total_steps=None if images is None else config.epochs * steps,
        part=sampler.micro_batch,
        parameters=sum(p.numel() for p in model.parameters()),
        device=str(device),
        precision=choose_precision(config.precision, device),
        learning_rate_rule=describe_rule(config),
        rates_source=network.rates.source if network.rates else None,
        groups=groups,
        layers=layers,
        moments=_moments(config, layers, network.rates),
        reproduced=config.reproduced,
        expected=find_paper_result(config.recipe),
    )


def _build(
    config: TrainConfig,
    place: torch.device,
    sampler: BatchSampler,
    settings: Settings | None,
) -> Network:
    """The network, tried on blank images as a run tries it."""
    with preserved_randomness(), place:
        seed_all(config.seed)
        random = replace(config, pretrained=False)  # nothing is fetched
        network = build_network(random, place, group=Group(0, 1), settings=settings)
    meta = place.type == "meta"
    shape = image_shape(config, grey=takes_grey(network.model))
    precision = config.precision.replace("tf32", "fp32")
    try:
        try_network(
            network,
            blank_images(
                min(2, sampler.smallest_part), shape, place, torch.get_default_dtype()
            ),
            classes=config.num_classes, advice=sampler.advice,
            context=contextlib.nullcontext if meta else lambda: autocast(place, precision),
        )  # fmt: skip
    except UsageError:
        if meta:  # code that looks at values does not run without them
            return _build(config, torch.device("cpu"), sampler, settings)
        raise
    if not meta:
        build_checkpoint(network.model)  # refuses what no checkpoint can hold
    return network


def describe_rule(config: TrainConfig) -> str:
    """The learning rate's rule, for this batch size."""
    peak = f"{config.peak_learning_rate:g} at the global batch of {config.batch_size}"
    if config.batch_size == config.lr_batch_size:
        return peak
    if config.scale_lr:
        return f"{peak}: {config.learning_rate:g} x {config.batch_size} / {config.lr_batch_size}"
    return f"{peak}, although chosen for {config.lr_batch_size}; scale_lr=true scales it linearly"


def _count_images(config: TrainConfig) -> tuple[int | None, str]:
    """Training images, None if nothing tells how many, and a line about them."""
    given = config.data is not None and user_path(config.data).exists()
    if given or config.dataset == "digits":
        found = open_datasets(config, torch.device("cpu"))
        return len(found.train), found.description
    missing = "no data given" if config.data is None else f"{config.data} is not here"
    published = config.dataset
    images = _PUBLISHED_SIZES.get(published)
    if config.dataset == "folder" and config.num_classes == 1000:
        published, images = "ImageNet-1k", _IMAGENET
    if images is None:
        return None, f"{missing}: the number of images, and of steps, is not known"
    return images, f"{images:,} images, the published size of {published}; {missing}"


def _moments(
    config: TrainConfig, layers: Sequence[LayerPlan], rates: PruneRates | None
) -> tuple[MomentPlan, ...]:
    schedule = build_schedule(config)
    return tuple(
        MomentPlan(epoch, schedule.at(epoch), expect_sparsity(config, layers, rates, epoch))
        for epoch in range(config.epochs + 1)
    )


def expect_sparsity(
    config: TrainConfig, layers: Sequence[LayerPlan], rates: PruneRates | None, epoch: float
) -> float | None:
    """Percent of zeros to expect after `epoch` epochs; None where STR learns it."""
    if config.method == "str":
        target = build_target(config)
        return None if target is None else 100 * target.at(epoch / config.epochs)
    if rates is None:
        return 0.0
    zeros = 0.0
    for layer in layers:
        final = (layer.prune_rate or 0.0) / 100
        if config.method == "gmp":
            per_epoch = config.is_on("prune_per_epoch")
            final = gmp_rate(final, epoch, *config.prune_span, per_epoch=per_epoch)
        zeros += final * layer.weights
    return 100 * zeros / sum(layer.weights for layer in layers)


def _weights(layer: torch.nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.numel()
