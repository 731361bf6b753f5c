"""Prune rates for DNW and GMP: one for all layers, or a budget transferred from another network.

The budget transfer of the STR paper (section 4.3): the sparsity that STR learned for each layer
becomes the prune rate of that layer under another method.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from strzoo.arguments import show
from strzoo.checkpoint import Checkpoint
from strzoo.errors import UsageError
from strzoo.hub.resolve import is_file, resolve
from strzoo.settings import Settings
from strzoo.sparse.magnitude_mask import check_prune_rate
from strzoo.sparse.selection import magnitude_layers, match_rates
from strzoo.training.schedules import gmp_rate
from strzoo.zoo.budgets import Budget, list_budgets, load_budget
from strzoo.zoo.names import resolve_name
from strzoo.zoo.registry import load_registry

Source = float | str | os.PathLike[str] | Mapping[str, float] | Budget | Checkpoint


@dataclass(frozen=True)
class PruneRates:
    """The final prune rate of each sparse layer, as fractions, and where they come from."""

    source: str
    layers: Mapping[str, float]


def resolve_rates(
    model: nn.Module,
    source: Source,
    *,
    single_precision: bool = False,
    settings: Settings | None = None,
) -> PruneRates:
    """The prune rate of each DNW or GMP layer of `model`.

    Args:
        model: has DNW or GMP layers.
        source: one rate for all (a number or its text); a mapping from layer to rate; a `Budget`;
            a name in `budgets/`; a budget file (.json); a checkpoint or its file; or a model id
            (`resnet50_str_90.23`), whose budget is used if it ships, else its weights.
        single_precision: round the share of weights that a checkpoint keeps in each layer to fp32,
            as the published code does, so that a weight more or less may go.
        settings: where a model's weights may come from; from the environment by default.

    Raises:
        UsageError: a rate outside [0, 1], or no DNW or GMP layers.
        UnknownNameError: no such budget or model; or the layers of the budget are not exactly
            those of the model (the first odd one is named).
        StrzooError: the file or the weights cannot be read, as `read_checkpoint`, `load`.
    """
    layers = magnitude_layers(model)
    if not layers:
        raise UsageError("the model has no DNW or GMP layers to prune; sparsify_ makes them")
    text, rates = _rates(source, single_precision, settings)
    if isinstance(rates, float):
        return PruneRates(text, dict.fromkeys(layers, check_prune_rate(rates)))
    return PruneRates(text, match_rates(rates, layers, text))


def _rates(
    source: Source, single: bool, settings: Settings | None
) -> tuple[str, float | Mapping[str, float]]:
    """A description and the rates, not yet compared with a model."""
    if isinstance(source, Budget):
        return f"budget {source.name}", source.prune_rates()
    if isinstance(source, Mapping):
        return "the given rates", source
    if isinstance(source, Checkpoint):
        return f"checkpoint {source.path or source.architecture}", measure_rates(source, single)
    known = isinstance(source, int | float | str | os.PathLike) and not isinstance(source, bool)
    if not known:
        raise UsageError(
            f"prune rates are {show(source)}; expected a rate (0.9), rates by layer, a Budget, a "
            "Checkpoint, or the name or file of one"
        )
    if isinstance(source, int | float):
        return f"uniform {100 * source:g} %", float(source)
    text = os.fspath(source)
    try:
        return f"uniform {100 * float(text):g} %", float(text)
    except ValueError:
        return _named_rates(text, single, settings)


def _named_rates(
    text: str, single: bool, settings: Settings | None
) -> tuple[str, Mapping[str, float]]:
    if text.endswith(".json"):
        return f"budget {text}", load_budget(text).prune_rates()
    settings = settings or Settings.from_env()
    if is_file(text):
        return f"checkpoint {text}", measure_rates(
            resolve(text, settings=settings).checkpoint, single
        )
    models = load_registry(settings).ids
    name = resolve_name(text, {*list_budgets(), *models}, kind="budget or model")
    if name not in list_budgets():
        card = load_registry(settings).get(name)
        if card.budget is None:
            format = "str" if "str" in card.files else "dense"
            source = resolve(name, format=format, settings=settings)
            return f"model {name}", measure_rates(source.checkpoint, single)
        name = card.budget
    return f"budget {name}", load_budget(name).prune_rates()


def measure_rates(checkpoint: Checkpoint, single_precision: bool = False) -> dict[str, float]:
    """The fraction of zeros among the effective weights of each layer of a checkpoint; with
    `single_precision` one minus the share of the others in fp32."""
    rates = {}
    for layer, weight in checkpoint.effective_weights().items():
        kept = int(torch.count_nonzero(weight))
        share = kept / weight.numel()
        if single_precision:
            share = torch.tensor(share, dtype=torch.float32).item()
        rates[layer] = 1 - share
    return rates


def apply_rates(model: nn.Module, rates: PruneRates) -> None:
    """Set each layer's prune rate from the next forward on (DNW: once, before training).

    Args:
        model: with DNW or GMP layers.
        rates: of exactly these layers.
    """
    for name, layer in magnitude_layers(model).items():
        layer.set_prune_rate(rates.layers[name])


def apply_gmp_rates(
    model: nn.Module,
    rates: PruneRates,
    *,
    epoch: float,
    start: float,
    end: float,
    per_epoch: bool = False,
) -> None:
    """Set each GMP layer's rate for this moment: `gmp_rate` of its final one. Cheap; each step.

    Args:
        model: with GMP layers.
        rates: their final rates.
        epoch: epochs done, a fraction in mid-epoch.
        start, end: epochs between which the rates rise from 0 to the final ones.
        per_epoch: they change with the epoch, not with the step; see `gmp_rate`.
    """
    for name, layer in magnitude_layers(model).items():
        rate = gmp_rate(rates.layers[name], epoch, start, end, per_epoch=per_epoch)
        layer.set_prune_rate(rate)
