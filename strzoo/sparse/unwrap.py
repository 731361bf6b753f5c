"""Networks as people have them in memory: wrapped, compiled, pruned or normalised by torch.

`unwrap` looks through DataParallel, DistributedDataParallel, AveragedModel and torch.compile.
`fold_parametrizations_` makes weights that are computed before each forward pass (pruning masks,
weight and spectral norms, torch's parametrizations) plain parameters again. `plain_network` gives
a network to analyse, export or compile without changing the one it is given.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from strzoo.borders import shorten_cause
from strzoo.errors import UsageError

log = logging.getLogger(__name__)

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_COMPILED = "_orig_mod"  # torch._dynamo, which has the class, takes seconds to import
# Attributes of quantised layers of torch.ao: plain ones, recurrent layers and cells.
_PACKED = ("_packed_params", "_all_weight_values", "_packed_weight_ih")
_HOOKS = (prune.BasePruningMethod, WeightNorm, SpectralNorm)


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself; `model` if nothing is around it."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and _COMPILED in model._modules:
            model = model.get_submodule(_COMPILED)
        else:
            return model


def check_values(model: nn.Module) -> None:
    """Raise a UsageError unless every parameter and buffer of `model` has values, and it can be
    set to evaluation mode, which torch.export's programs refuse."""
    if "eval" in vars(model):
        raise UsageError(
            f"{type(model).__name__} is an exported program, whose layers are hidden: give the "
            "torch.nn.Module that it was made from"
        )
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise UsageError(
                f"{type(model).__name__}: {name} has no shape yet; run the network on one batch "
                "first"
            )
        if value.is_meta:
            raise UsageError(
                f"{type(model).__name__}: {name} is on the device meta, without values; load "
                "weights into it first (to_empty, load_state_dict)"
            )


def check_layers(model: nn.Module) -> None:
    """Raise a UsageError if layers of `model` hide their weights: TorchScript, quantised layers."""
    kind = type(model).__name__
    for name, module in model.named_modules():
        where = f"{kind}: {name} ({type(module).__name__})" if name else kind
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(
                f"{where} is TorchScript, whose layers are hidden: give the torch.nn.Module that "
                "it was made from"
            )
        if any(hasattr(module, packed) for packed in _PACKED):
            raise UsageError(
                f"{where} is quantised, its weights are packed: give the network from before it "
                "was quantised"
            )


def plain_network(model: nn.Module) -> nn.Module:
    """`model` without wrappers and with plain weights: a copy if it has computed ones.

    Raises:
        UsageError: layers hide their weights.
    """
    model = unwrap(model)
    if any(unwrap(m) is not m or parametrised_names(m) for m in model.modules()):
        return copy_plain(model)
    check_layers(model)
    return model


def copy_plain(model: nn.Module) -> nn.Module:
    """A copy of `model` without wrappers and with plain weights, in evaluation mode."""
    return make_plain_(copy_network(model).eval())


def make_plain_(model: nn.Module) -> nn.Module:
    """The network in `model`, without wrappers around it or within, its weights plain, in place.

    Raises:
        UsageError: layers hide their weights, or a parametrization of torch cannot be removed.
    """
    network = unwrap(model)
    check_layers(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if (inner := unwrap(child)) is not child:
                parent.register_module(name, inner)
    return fold_parametrizations_(network)


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy of the network in `model`, without wrappers.

    torch copies no tensor that was computed from parameters, such as a pruned weight after a
    training step; the copy has its values.

    Raises:
        UsageError: it cannot be copied, or layers hide their weights.
    """
    model = unwrap(model)
    check_layers(model)
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # what a network holds may refuse in its own way
        raise UsageError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: "
            f"{shorten_cause(error)}); take what is no part of the network out of it"
        ) from error


def parametrised_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of one module, not of those inside it, that are computed from others."""
    names = [
        hook.name if isinstance(hook, WeightNorm | SpectralNorm) else hook._tensor_name
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, _HOOKS)
    ]
    if parametrize.is_parametrized(module):
        names += _groups(module)
    return tuple(names)


def fold_parametrizations_(
    model: nn.Module, modules: Iterable[nn.Module] | None = None
) -> nn.Module:
    """Make every computed weight of `model` a plain parameter that holds its value, in place.

    Args:
        model: any network.
        modules: those of its modules to look at; by default all.

    Returns:
        `model`; it computes what it did in evaluation mode.

    Raises:
        UsageError: a parametrization of torch cannot be removed.
    """
    for module in list(model.modules()) if modules is None else modules:
        for hook in [h for h in module._forward_pre_hooks.values() if isinstance(h, _HOOKS)]:
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                _forget_loading(module, hook)
            else:
                prune.remove(module, hook._tensor_name)
        if parametrize.is_parametrized(module):
            for name in _groups(module):
                _fold(module, name)
    return model


def _forget_loading(module: nn.Module, norm: SpectralNorm) -> None:
    """Take away the hook that asks for the parts of a spectral norm when a state dict is loaded,
    which torch, having wrapped it, does not find again."""
    hooks = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        if getattr(getattr(wrapped, "hook", wrapped), "fn", None) is norm:
            del hooks[key]


def _groups(module: nn.Module) -> list[str]:
    """Names of the tensors that torch.nn.utils.parametrize computes."""
    return [name for name, _ in module.get_submodule("parametrizations").named_children()]


def _fold(module: nn.Module, name: str) -> None:
    # Spectral norm takes a step of its iteration in training mode.
    module.get_submodule("parametrizations").eval()
    # torch takes the property away from the class, which copies of the module have in common.
    shared = type(module)
    own = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)
    try:
        with torch.enable_grad():  # else torch makes it a buffer
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"the parametrization of {type(module).__name__}.{name} cannot be folded ({reason}); "
            "remove it with torch.nn.utils.parametrize.remove_parametrizations first"
        ) from error
    frozen = module._buffers.pop(name, None)
    if frozen is not None:
        module.register_parameter(name, nn.Parameter(frozen, requires_grad=False))
