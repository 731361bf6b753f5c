"""Weights that torch's attention and recurrent modules hold themselves, past any layer's forward:
what is counted of them, and what a report has to say of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.sparse.selection import some_of

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@contextmanager
def no_fused_attention() -> Iterator[None]:
    """Within the block attention and transformer layers are made of operators that can be counted;
    in evaluation torch takes one fused operator for each."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def attentions(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """Torch's own attention modules by name; a subclass may compute anything."""
    return {n: m for n, m in model.named_modules() if type(m) is nn.MultiheadAttention}


def output_layer(name: str) -> str:
    """The layer of the attention module `name` whose weight it reads past the layer's forward."""
    return f"{name}.out_proj".lstrip(".")


class AttentionHook:
    """A forward hook, with keywords, of an attention module.

    Args:
        name: of the module.
        outputs, macs: of the layers; the output projection's are added.
        others: MACs by operator of what is no layer; those of the input projections are added.
    """

    def __init__(
        self,
        name: str,
        outputs: dict[str, tuple[int, ...]],
        macs: Counter[str],
        others: Counter[str],
    ) -> None:
        self.layer = output_layer(name)
        self.outputs, self.macs, self.others = outputs, macs, others

    def __call__(
        self, module: nn.MultiheadAttention, inputs: Any, keywords: dict[str, Any], output: Any
    ) -> None:
        given: list[Tensor] = [*inputs[:3]]
        given += [keywords[name] for name in ("query", "key", "value")[len(given) :]]
        rows = [tensor.numel() // tensor.shape[-1] for tensor in given]
        self.others["linear"] += sum(
            count * module.embed_dim * tensor.shape[-1]
            for count, tensor in zip(rows, given, strict=True)
        )
        self.macs[self.layer] += rows[0] * module.out_proj.weight.numel()
        shape = list(output[0].shape)
        if len(shape) > 2:
            del shape[0 if module.batch_first else 1]  # the batch
        self.outputs[self.layer] = tuple(shape)


def note_matrices(model: nn.Module) -> list[str]:
    """A note for each kind of module whose matrices are no layers of the report."""
    inputs: list[str] = []
    recurrent: list[str] = []
    weights = {"attention": 0, "recurrent": 0}
    for name, module in model.named_modules():
        own = {
            f"{name}.{key}".lstrip("."): p.numel()
            for key, p in module.named_parameters(recurse=False)
            if p.dim() == 2
        }
        if type(module) is nn.MultiheadAttention:
            inputs += own
            weights["attention"] += sum(own.values())
        elif isinstance(module, _RECURRENT):
            recurrent += own
            weights["recurrent"] += sum(own.values())
    notes = []
    if inputs:
        notes.append(
            f"{weights['attention']:,} weights of attention are among the params and no layers of "
            f"their own; their MACs are those of the operator linear: {some_of(inputs)}"
        )
    if recurrent:
        notes.append(
            f"{weights['recurrent']:,} weights of recurrent layers are among the params alone; "
            f"their zeros and MACs are not counted: {some_of(recurrent)}"
        )
    return notes


def note_idle(names: list[str]) -> list[str]:
    """A note on layers of which no MACs were counted."""
    if not names:
        return []
    return [f"no MACs were counted of {some_of(names)}: the forward pass does not call them"]
