"""BatchNorm folded into the convolutions before it, where one run of the network shows that nothing
else sees the difference.

It shortens the export, and what is not folded here is left to the exporter. The network's own code
runs, on tensors without numbers. It is not traced symbolically: code that asks whether it was given
a tensor, or an optional argument at all, takes another branch then.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from strzoo.redirected_output import chatter_to

log = logging.getLogger(__name__)

# By their exact type: what is derived from them may compute anything.
_PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d,
}  # fmt: skip


def fold_norms(network: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
    """A copy of `network` with BatchNorms folded into convolutions.

    A pair is folded if both are called once and have no hooks, the convolution's output goes to
    the BatchNorm and nowhere else, and the weights of both are read by these calls alone.

    Args:
        network: in evaluation mode, on the CPU.
        example: input of the shape that it is for.

    Returns:
        The copy, and how many BatchNorms were folded: none if the network does not run.
    """
    made = copy.deepcopy(network)
    try:
        with chatter_to(log):
            pairs = _find_pairs(copy.deepcopy(network), example)
    except Exception as error:  # the network's own code, which the exporter may yet take
        log.info("BatchNorm is left to the exporter: %s", " ".join(str(error).split())[:200])
        return made, 0
    for conv_name, norm_name in pairs:
        conv: Any = made.get_submodule(conv_name)
        norm: Any = made.get_submodule(norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias,
        )  # fmt: skip
        parent, _, child = norm_name.rpartition(".")
        setattr(made.get_submodule(parent), child, nn.Identity())
    return made, len(pairs)


def _find_pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and BatchNorms that may be folded; `network` may change by it."""
    watched = {
        module: name
        for name, module in network.named_modules()
        if type(module) in (*_PAIRS, *_PAIRS.values()) and not _has_hooks(module)
    }
    without_numbers = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), _calls_of(watched) as calls, without_numbers, _Uses() as uses:
        output = network(torch.empty_like(example))
    uses.count(output)
    made_by = {id(call[2]): call for call in calls if type(call[0]) in _PAIRS}
    times = Counter(call[0] for call in calls)
    pairs = []
    for norm, given, _ in calls:
        if type(norm) in _PAIRS or id(given) not in made_by:
            continue
        conv, _, between = made_by[id(given)]
        own = [t for module in (conv, norm) for t in (*module._parameters.values(),
               *module._buffers.values()) if t is not None and t.is_floating_point()]  # fmt: skip
        if (
            _PAIRS[type(conv)] is type(norm)
            and norm.track_running_stats
            and not norm.training
            and times[conv] == times[norm] == 1
            and all(uses.times[id(tensor)] == 1 for tensor in (between, *own))
        ):
            pairs.append((watched[conv], watched[norm]))
    return pairs


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any(map(bool, hooks)) or "forward" in module.__dict__


@contextmanager
def _calls_of(modules: Iterable[nn.Module]) -> Iterator[list[tuple[Any, Any, Any]]]:
    """Module, first argument and result of each call of `modules`, which are kept alive so that
    each has an id of its own."""
    calls: list[tuple[Any, Any, Any]] = []

    def note(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        calls.append((module, given[0] if given else None, result))

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class _Uses(TorchDispatchMode):
    """How many operators read each tensor, by its id; all tensors are kept alive."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()
        self._alive: list[Tensor] = []

    def count(self, values: Any) -> None:
        found = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        self._alive += found
        self.times.update(map(id, found))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace != "prim":  # questions about a device or layout read no numbers
            self.count((args, kwargs))
        return func(*args, **(kwargs or {}))
