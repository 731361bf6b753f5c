"""Turn the convolutions and linears of any PyTorch model into sparse layers, and back.

A layer keeps its identity: its class changes in place, as torch's own parametrizations do.
Parameters, hooks, device, names, and references to the layer held elsewhere stay as they were.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.sparse.blocks import check_block
from strzoo.sparse.layers import (
    DEFAULT_S_INIT,
    SparseLayer,
    resolve_g,
)
from strzoo.sparse.magnitude_mask import check_prune_rate
from strzoo.sparse.selection import (
    METHODS,
    PRUNABLE,
    Skip,
    convertible_layers,
    match_rates,
    torch_kind,
)
from strzoo.sparse.unwrap import check_layers, fold_parametrizations_, parametrised_names, unwrap
from strzoo.zoo.budgets import Budget, load_budget

log = logging.getLogger(__name__)

_DENSE: dict[type[nn.Module], type[Any]] = {
    sparse: dense for table in METHODS.values() for dense, sparse in table.items()
}


@checked
def sparsify_(
    model: nn.Module,
    method: str = "str",
    *,
    skip: Skip = (),
    threshold: str = "layer",
    s_init: float = DEFAULT_S_INIT,
    g: Callable[[Tensor], Tensor] | str = torch.sigmoid,
    g_scale: float = 1.0,
    prune_rate: float | Mapping[str, float] | Budget | str | None = None,
    block: int = 1,
) -> nn.Module:
    """Make every `nn.Conv2d` and `nn.Linear` of `model` a sparse layer, in place.

    Subclasses with a forward of their own, and the linears inside torch's attention modules, are
    left dense, and the log says why: a sparse weight there would be ignored. Weights that torch
    computes before each forward (pruning masks, weight and spectral norm) become plain parameters
    with the computed values. If anything raises, `model` is as it was.

    Args:
        model: any module, or one in a wrapper (DataParallel, torch.compile, AveragedModel); layer
            names are those of the module inside. Weights keep their values.
        method: "str", "dnw" or "gmp".
        skip: layer names or glob patterns (`"fc"`, `"*.downsample.*"`), or a function of
            (name, layer) that says True for the layers to leave alone.
        threshold: for STR: "layer", "filter", "weight", or "global" (one shared by all).
        s_init: for STR: initial threshold parameter s. The default is the paper's for ResNet50
            and 100 epochs of ImageNet: the threshold sigmoid(s) is exactly zero, so training
            starts dense, and stays dense until weight decay has brought s above about -10. Each
            step of SGD decays s by the factor exp(-learning_rate * decay / (1 - momentum)), so a
            training of some thousand steps ends without a single zero. Start a short one at
            -8 (threshold 0.0003) with a `threshold_decay` above the weights' decay, or give
            it a target sparsity, which begins from any s.
        g: for STR: maps the parameter to the threshold: "sigmoid", "exp" or a function.
        g_scale: for STR: the threshold is so many times that.
        prune_rate: for DNW and GMP: the fraction of weights to drop, one for all layers (0 by
            default), or per layer as a mapping, a `Budget`, or the name or file of one.
        block: consecutive input channels whose weights become zero together (4 for int8 on the
            sparse engine): STR thresholds the norm of each block, DNW and GMP drop the blocks of
            the smallest norms.

    Returns:
        `model`.

    Raises:
        UsageError: an unknown method, option or value, or nothing left to convert.
        UnknownNameError: a skip pattern matches no layer; a budget lacks a layer or has one more.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if method == "str" and prune_rate is not None:
        raise UsageError("prune_rate is for dnw and gmp; STR learns its sparsity")
    if method != "str" and (threshold != "layer" or s_init != DEFAULT_S_INIT):
        raise UsageError(f"threshold and s_init are for str; {method} takes prune_rate")
    s_init, block = _finite(s_init), check_block(block)
    if isinstance(prune_rate, str):
        prune_rate = load_budget(prune_rate)
    inner = unwrap(model)
    check_layers(inner)
    layers = convertible_layers(inner, method, skip)
    options = _options(method, layers, threshold, s_init, resolve_g(g, g_scale), prune_rate)
    if threshold == "weight" and block > 1:
        raise UsageError("threshold 'weight' has no blocks; take layer, filter or global")
    _warn_of_buckets(model)
    with _all_or_none(layers.values()):
        fold_parametrizations_(model, layers.values())
        for name, layer in layers.items():
            layer.__class__ = METHODS[method][torch_kind(type(layer))]
            assert isinstance(layer, SparseLayer)
            layer.init_sparsity(**options[name], block=block)
    return model


@checked
def to_dense_(model: nn.Module) -> nn.Module:
    """Turn sparse layers back into plain ones that hold the effective weights, in place.

    The model computes exactly what it computed before. Each converted layer gets a new
    `weight` parameter (a weight tied to another layer is untied: their sparse forms differ).
    Convolutions and linears whose weight torch computes (pruning masks, weight and spectral norm)
    get a plain one, too.

    Args:
        model: any module, or one in a wrapper.

    Returns:
        `model`; unchanged if it has no such layers.

    Raises:
        UsageError: a sparse layer is of a class that strzoo does not know; `model` is as it was.
    """
    layers = [m for m in model.modules() if isinstance(m, SparseLayer)]
    for layer in layers:
        if (kind := parametrize.type_before_parametrizations(layer)) not in _DENSE:
            raise UsageError(
                f"{kind.__name__} has no dense counterpart; known are "
                f"{', '.join(sparse.__name__ for sparse in _DENSE)}"
            )
    computed = [m for m in model.modules() if isinstance(m, PRUNABLE) and parametrised_names(m)]
    if layers:
        _warn_of_buckets(model)
    with _all_or_none([*layers, *computed]):
        fold_parametrizations_(model, computed)
        for layer in layers:
            with torch.no_grad():
                effective = layer.effective_weight().clone()
            trainable = layer.weight.requires_grad
            layer.drop_sparsity()
            layer.weight = nn.Parameter(effective, requires_grad=trainable)
            layer.__class__ = _DENSE[type(layer)]
    return model


def _finite(s_init: Any) -> float:
    with contextlib.suppress(TypeError, ValueError):
        if math.isfinite(value := float(s_init)):
            return value
    raise UsageError(f"s_init is {s_init!r}; it must be a finite number")


@contextlib.contextmanager
def _all_or_none(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Put the class, parameters, hooks and attributes of every layer back if the block raises."""
    modules = [m for layer in layers for m in layer.modules()]  # parametrizations are modules
    tables = [value for m in modules for value in vars(m).values() if isinstance(value, dict)]
    before = [(m, type(m), dict(vars(m))) for m in modules]
    contents = [(table, dict(table)) for table in tables]
    tensors = [(t, t.data) for m in modules for t in (*m.parameters(), *m.buffers())]
    try:
        yield
    except BaseException:
        for module, kind, attributes in before:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        for table, content in contents:  # handles of hooks know the table itself
            table.clear()
            table.update(content)
        for tensor, data in tensors:
            tensor.data = data
        raise


def _warn_of_buckets(model: nn.Module) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        log.warning(
            "DistributedDataParallel does not see parameters that are new or replaced: wrap the "
            "network again before you train it"
        )


def _options(
    method: str,
    layers: Mapping[str, nn.Module],
    threshold: str,
    s_init: float,
    g: Callable[[Tensor], Tensor],
    prune_rate: float | Mapping[str, float] | Budget | None,
) -> dict[str, dict[str, Any]]:
    """The `init_sparsity` arguments of each layer, all checked before any layer changes."""
    if method == "str":
        shared: str | nn.Parameter = threshold
        if threshold == "global":
            first = next(iter(layers.values())).weight
            assert isinstance(first, Tensor)
            dtype = torch.promote_types(first.dtype, torch.float32)
            shared = nn.Parameter(
                torch.full((1, 1), float(s_init), dtype=dtype, device=first.device)
            )
        elif threshold not in ("layer", "filter", "weight"):
            raise UsageError(f"threshold {threshold!r} is not one of layer, filter, weight, global")
        return {name: {"threshold": shared, "s_init": s_init, "g": g} for name in layers}
    if isinstance(prune_rate, Budget):
        prune_rate.warn({n: layer.get_parameter("weight").numel() for n, layer in layers.items()})
        prune_rate = prune_rate.prune_rates()
    if not isinstance(prune_rate, Mapping):
        rate = check_prune_rate(0.0 if prune_rate is None else prune_rate)
        return {name: {"prune_rate": rate} for name in layers}
    matched = match_rates(prune_rate, layers)
    return {name: {"prune_rate": rate} for name, rate in matched.items()}
