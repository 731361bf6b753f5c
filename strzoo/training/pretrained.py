"""start_from: the network a run begins with, if it does not begin at random weights.

A key that describes how a network begins is applied to what is new in it, or refused where the
file says otherwise: config.yaml holds nothing that was not so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from strzoo.errors import UsageError
from strzoo.hub.network_sources import CardSource
from strzoo.hub.resolve import resolve
from strzoo.hub.source import Source
from strzoo.models.external_names import is_external
from strzoo.models.spec import ModelSpec
from strzoo.settings import Settings
from strzoo.sparse.layers import STRLayer
from strzoo.sparse.selection import match_names, prunable_layers, str_layers
from strzoo.sparse.sparsify import sparsify_, to_dense_
from strzoo.training.config import TrainConfig
from strzoo.training.finetuning import ZeroMask, load_pretrained

_RANDOM = ("initialisation", "default_initialisation", "fan", "init_density")
_SHAPE = ("small_stem", "width", "head_bias")
_MASK_TOLERANCE = 1e-3  # of a target sparsity


@dataclass(frozen=True)
class Pretrained:
    """A network to go on from, its STR layers included, and what to know about it."""

    model: nn.Module
    notes: tuple[str, ...] = ()


def build_pretrained(config: TrainConfig, settings: Settings | None = None) -> Pretrained:
    """The network of `config.start_from`, in training mode on the CPU.

    With method=str a file that has thresholds goes on learning them.

    Args:
        config: start_from, and what the network has to be.
        settings: where a model's weights come from; from the environment by default.

    Raises:
        UsageError: a key says otherwise than the file.
        StrzooError and its subclasses: the weights cannot be had or read.
    """
    assert config.start_from is not None
    source, format = find_source(config, settings)
    # An id is known by its card, before anything is fetched.
    by_card = isinstance(source, CardSource)
    found = source.architecture if by_card else source.checkpoint.architecture
    if found != (config.architecture or found):
        raise UsageError(
            f"start_from={config.start_from} is a {found}, not a {config.architecture}; set "
            f"architecture={found}"
        )
    checkpoint = source.checkpoint
    _check_keys(config, checkpoint.spec)
    model = load_pretrained(source, num_classes=config.num_classes, format=format)
    if checkpoint.sparsity() == 100:  # of which no gradient comes
        raise UsageError(
            f"all weights of start_from={config.start_from} are zero, and stay so; take another "
            "file, or another entry of it (strzoo convert --entry)"
        )
    if config.method != "str" or checkpoint.format != "str":
        return Pretrained(model, checkpoint.notes)
    if config.threshold != checkpoint.threshold_granularity:
        raise UsageError(
            f"start_from={config.start_from} has one threshold per "
            f"{checkpoint.threshold_granularity}, not {config.threshold}; set "
            f"threshold={checkpoint.threshold_granularity}"
        )
    if config.block != checkpoint.block:
        raise UsageError(
            f"start_from={config.start_from} has blocks of {checkpoint.block} input channels, not "
            f"{config.block}; set block={checkpoint.block}"
        )
    return Pretrained(model, (*checkpoint.notes, _fit_thresholds(model, config, checkpoint.spec)))


def find_source(config: TrainConfig, settings: Settings | None) -> tuple[Source, str | None]:
    """What `config.start_from` means, and the format to load: with STR a file's own, and of an id
    the one with thresholds.

    Raises:
        UnknownNameError, UsageError: it means no model.
    """
    assert config.start_from is not None
    settings = settings or Settings.from_env()
    if is_external(config.architecture):
        settings = replace(settings, architecture=config.architecture)
    source = resolve(config.start_from, settings=settings)
    if config.method != "str":
        return source, "dense"
    if not isinstance(source, CardSource):
        return source, None
    assert source.card is not None
    format = "str" if "str" in source.card.files else "dense"
    return resolve(config.start_from, format=format, settings=settings), format


def _check_keys(config: TrainConfig, spec: ModelSpec) -> None:
    plain = TrainConfig()
    given = dict(config.model_args)
    if spec.record.any_options and given and given != dict(spec.options):
        raise UsageError(
            f"start_from={config.start_from} was built with {dict(spec.options)}, not {given}; "
            "leave model_args out"
        )
    shape = () if spec.record.any_options else _SHAPE
    for name in _RANDOM:
        value = getattr(config, name)
        if value != getattr(plain, name):
            raise UsageError(
                f"{name}={value} is for random weights; start_from={config.start_from} brings "
                f"its own: leave {name} out"
            )
    for name in shape:
        value, has = getattr(config, name), spec.options.get(name, getattr(plain, name) or False)
        if value is not None and value != has:
            raise UsageError(
                f"start_from={config.start_from} has {name}={_spell(has)}, not {_spell(value)}; "
                f"set {name}={_spell(has)}"
            )


def _fit_thresholds(model: nn.Module, config: TrainConfig, spec: ModelSpec) -> str:
    """Make the layers of `keep_dense` dense and all others STR; new thresholds begin at `s_init`.

    Returns:
        A note about where the thresholds begin.
    """
    kept = match_layers(model, config.keep_dense)
    head = spec.head
    fresh = {head} if spec.num_classes != config.num_classes else set()
    for name, layer in str_layers(model).items():
        if name in kept:
            to_dense_(layer)
        elif name in fresh:
            with torch.no_grad():
                layer.sparseThreshold.fill_(config.s_init)
    new = [n for n, m in prunable_layers(model).items() if not isinstance(m, STRLayer)]
    new = [name for name in new if name not in kept]
    if new:
        sparsify_(
            model, "str", skip=lambda name, layer: name not in new,
            threshold=config.threshold, s_init=config.s_init, block=config.block,
        )  # fmt: skip
    fresh = {name for name in (*fresh, *new) if name in str_layers(model)}
    learned = len(str_layers(model)) - len(fresh)
    begin = f"s_init={config.s_init:g} is where {', '.join(sorted(fresh)) or 'no layer'} begins"
    return f"{learned} layers go on from the thresholds in {config.start_from}; {begin}"


def match_layers(model: nn.Module, keep_dense: tuple[str, ...]) -> set[str]:
    """The names of the layers that `keep_dense` means.

    Raises:
        UnknownNameError: a pattern matches no layer.
    """
    names = list(prunable_layers(model))
    ends = {"first": names[0], "last": names[-1]}
    return match_names([ends.get(pattern, pattern) for pattern in keep_dense], names)


def check_mask(mask: ZeroMask, config: TrainConfig) -> None:
    """Raise a UsageError if the zeros that stay zero are more than the target sparsity."""
    target = config.target_sparsity
    if target is not None and mask.sparsity / 100 > target + _MASK_TOLERANCE:
        raise UsageError(
            f"target_sparsity={target} cannot be met: {mask.sparsity:.2f} % of the weights of "
            f"start_from={config.start_from} are zero, and keep_mask=true keeps them so; set "
            "keep_mask=false, or raise the target"
        )


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
