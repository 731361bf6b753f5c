"""Which layers of a network can be sparse, are sparse, or are named by patterns."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from strzoo.arguments import show
from strzoo.errors import UnknownNameError, UsageError
from strzoo.sparse.layers import (
    DNWConv2d,
    DNWLinear,
    GMPConv2d,
    GMPLinear,
    MagnitudeLayer,
    SparseLayer,
    STRConv2d,
    STRLayer,
    STRLinear,
)
from strzoo.sparse.magnitude_mask import check_prune_rate

log = logging.getLogger(__name__)

METHODS: dict[str, dict[type[nn.Module], type[SparseLayer]]] = {
    "str": {nn.Conv2d: STRConv2d, nn.Linear: STRLinear},
    "dnw": {nn.Conv2d: DNWConv2d, nn.Linear: DNWLinear},
    "gmp": {nn.Conv2d: GMPConv2d, nn.Linear: GMPLinear},
}
# Subclasses that compute what torch's own layer does.
_PLAIN_SUBCLASSES = {"timm.layers.linear.Linear": nn.Linear}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
# These read the weights of their linears directly, past a sparse layer's forward.
_PARENTS_LEFT_DENSE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
Skip = Iterable[str] | Callable[[str, nn.Module], bool]


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linears of `model` by name, in network order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, PRUNABLE)}


def takes_grey(model: nn.Module) -> bool:
    """Whether a network is for images of one channel: its first convolution is, and none is for
    three."""
    found = [m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return found[:1] == [1] and 3 not in found


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
                f"{source} has no layer {name!r}; it has {some_of(rates)}: add it or skip the layer"
            )
    for name in rates:
        if name not in layers:
            raise UnknownNameError(
                f"layer {name!r} of {source} is not one of the pruned layers, {some_of(layers)}"
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
    _say_what_has_no_sparse_form(model, table)
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


def _say_what_has_no_sparse_form(
    model: nn.Module, table: Mapping[type[nn.Module], type[SparseLayer]]
) -> None:
    names: dict[str, list[str]] = {}
    for name, module in prunable_layers(model).items():
        if not isinstance(module, (SparseLayer, *table)):
            names.setdefault(type(module).__name__, []).append(name)
    for kind, found in names.items():
        log.warning(
            "%s (%s) %s left dense: only Conv2d and Linear layers can be sparse",
            some_of(found), kind, "is" if len(found) == 1 else "are",
        )  # fmt: skip


def _why_dense(
    module: nn.Module, table: Mapping[type[nn.Module], type[SparseLayer]], inside_attention: bool
) -> str | None:
    """Why a convolution or linear layer cannot be made sparse; None if it can."""
    kind = parametrize.type_before_parametrizations(module)
    if inside_attention:
        return "the attention module around it reads its weight directly, past its forward"
    if torch_kind(kind) in table:
        weight = module.weight
        complex_ = isinstance(weight, Tensor) and weight.is_complex()
        return "its weights are complex numbers, which have no threshold" if complex_ else None
    base = next(known for known in table if isinstance(module, known))
    return (
        f"{kind.__module__}.{kind.__qualname__} is a subclass of torch's {base.__name__} and may "
        f"compute otherwise; replace it by torch.nn.{base.__name__} to make it sparse"
    )


def torch_kind(kind: type[nn.Module]) -> type[nn.Module]:
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
                f"skip pattern {pattern!r} matches no layer; layers are {some_of(names)}"
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


def some_of(names: Iterable[str], count: int = 6) -> str:
    """The first names, and how many there are."""
    names = list(names)
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if names[count:] else "")
