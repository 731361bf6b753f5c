"""Turn the convolutions and linears of any PyTorch model into sparse layers, and back.

A layer keeps its identity: its class changes in place, as torch's own parametrizations do.
Parameters, hooks, device, names, and references to the layer held elsewhere stay as they were.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from strzoo.arguments import checked, show
from strzoo.errors import UnknownNameError, UsageError
from strzoo.sparse.blocks import check_block
from strzoo.sparse.layers import (
    DEFAULT_S_INIT,
    DNWConv2d,
    DNWLinear,
    GMPConv2d,
    GMPLinear,
    MagnitudeLayer,
    SparseLayer,
    STRConv2d,
    STRLayer,
    STRLinear,
    resolve_g,
)
from strzoo.sparse.magnitude_mask import check_prune_rate
from strzoo.sparse.unwrap import fold_parametrizations_, parametrised_names, unwrap
from strzoo.zoo.budgets import Budget, load_budget

log = logging.getLogger(__name__)

METHODS: dict[str, dict[type[nn.Module], type[SparseLayer]]] = {
    "str": {nn.Conv2d: STRConv2d, nn.Linear: STRLinear},
    "dnw": {nn.Conv2d: DNWConv2d, nn.Linear: DNWLinear},
    "gmp": {nn.Conv2d: GMPConv2d, nn.Linear: GMPLinear},
}
# Subclasses that compute what torch's own layer does.
_PLAIN_SUBCLASSES = {"timm.layers.linear.Linear": nn.Linear}
_DENSE: dict[type[nn.Module], type[Any]] = {
    sparse: dense for table in METHODS.values() for dense, sparse in table.items()
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PRUNABLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
# These read the weights of their linears directly, past a sparse layer's forward.
_PARENTS_LEFT_DENSE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)

Skip = Iterable[str] | Callable[[str, nn.Module], bool]


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
    layers = convertible_layers(unwrap(model), method, skip)
    options = _options(method, layers, threshold, s_init, resolve_g(g, g_scale), prune_rate)
    if threshold == "weight" and block > 1:
        raise UsageError("threshold 'weight' has no blocks; take layer, filter or global")
    _warn_of_buckets(model)
    with _all_or_none(layers.values()):
        fold_parametrizations_(model, layers.values())
        for name, layer in layers.items():
            layer.__class__ = METHODS[method][_torch_kind(type(layer))]
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
    computed = [m for m in model.modules() if isinstance(m, _PRUNABLE) and parametrised_names(m)]
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


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linears of `model` by name, in network order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _PRUNABLE)}


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """The sparse layers of `model` by name, in network order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer)}


def str_layers(model: nn.Module) -> dict[str, STRLayer]:
    """The STR layers of `model` by name, in network order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, STRLayer)}


def magnitude_layers(model: nn.Module) -> dict[str, MagnitudeLayer]:
    """The DNW and GMP layers of `model` by name, in network order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, MagnitudeLayer)}


def match_rates(
    rates: Mapping[str, float], layers: Mapping[str, nn.Module], source: str = "the budget"
) -> dict[str, float]:
    """The rate of each of `layers`, in their order; names must be the same on both sides.

    Raises:
        UnknownNameError: a layer has no rate, or a rate no layer; the first one is named.
        UsageError: a rate is outside [0, 1].
    """
    for name in layers:
        if name not in rates:
            raise UnknownNameError(
                f"{source} has no layer {name!r}; it has {_some(rates)}: add it or skip the layer"
            )
    for name in rates:
        if name not in layers:
            raise UnknownNameError(
                f"layer {name!r} of {source} is not one of the pruned layers, {_some(layers)}"
            )
    return {name: check_prune_rate(rates[name]) for name in layers}


def convertible_layers(model: nn.Module, method: str, skip: Skip) -> dict[str, nn.Module]:
    """The dense layers that `method` can make sparse, by name; the log says why others are left.

    Args:
        model: not wrapped.
        method: one of `METHODS`.
        skip: as in `sparsify_`.

    Raises:
        UnknownNameError: a skip pattern matches no layer.
        UsageError: there are none.
    """
    table = METHODS[method]
    candidates: dict[str, nn.Module] = {}
    refused: dict[str, str] = {}
    closed: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, _PARENTS_LEFT_DENSE):
            closed.append(f"{name}." if name else "")
        if isinstance(module, SparseLayer) or not any(isinstance(module, t) for t in table):
            continue
        reason = _why_dense(module, table, any(name.startswith(prefix) for prefix in closed))
        candidates[name] = module
        if reason is not None:
            refused[name] = reason
    if callable(skip):
        chosen = {n: m for n, m in candidates.items() if not skip(n, m)}
    else:
        skipped = match_names(skip, candidates)
        chosen = {n: m for n, m in candidates.items() if n not in skipped}
    for name in [name for name in chosen if name in refused]:
        kind = type(chosen.pop(name)).__name__
        log.warning("%s (%s) is left dense: %s", name, kind, refused[name])
    if not chosen:
        skipped_layers = len(candidates) - len(refused)
        raise UsageError(
            f"{type(model).__name__} has no dense Conv2d or Linear to convert "
            f"({skipped_layers} were skipped, {len(sparse_layers(model))} are sparse already)"
        )
    return chosen


def _why_dense(
    module: nn.Module, table: Mapping[type[nn.Module], type[SparseLayer]], inside_attention: bool
) -> str | None:
    """Why a convolution or linear layer cannot be made sparse; None if it can."""
    kind = parametrize.type_before_parametrizations(module)
    if inside_attention:
        return "the attention module around it reads its weight directly, past its forward"
    if _torch_kind(kind) in table:
        return None
    base = next(known for known in table if isinstance(module, known))
    return (
        f"{kind.__module__}.{kind.__qualname__} is a subclass of torch's {base.__name__} and may "
        f"compute otherwise; replace it by torch.nn.{base.__name__} to make it sparse"
    )


def _torch_kind(kind: type[nn.Module]) -> type[nn.Module]:
    """The layer of torch that computes the same, if `kind` is a subclass known to; else `kind`."""
    return _PLAIN_SUBCLASSES.get(f"{kind.__module__}.{kind.__qualname__}", kind)


def match_names(patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    """Those of the layer names that match a pattern (a name, or a glob).

    Raises:
        UnknownNameError: a pattern matches none.
    """
    names = list(names)
    matched: set[str] = set()
    for pattern in _read_patterns(patterns):
        found = fnmatch.filter(names, pattern)
        if not found:
            raise UnknownNameError(
                f"skip pattern {pattern!r} matches no layer; layers are {_some(names)}"
            )
        matched.update(found)
    return matched


def _read_patterns(patterns: Any) -> list[str]:
    try:
        found = [patterns] if isinstance(patterns, str) else [*patterns]
    except TypeError:  # not to be iterated over, whatever it claims
        found = [None]
    if not all(isinstance(pattern, str) for pattern in found):
        raise UsageError(f"skip is {show(patterns)}; expected layer names, patterns or a function")
    return found


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
        prune_rate = prune_rate.prune_rates()
    if not isinstance(prune_rate, Mapping):
        rate = check_prune_rate(0.0 if prune_rate is None else prune_rate)
        return {name: {"prune_rate": rate} for name in layers}
    matched = match_rates(prune_rate, layers)
    return {name: {"prune_rate": rate} for name, rate in matched.items()}


def _some(names: Iterable[str], count: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if names[count:] else "")
