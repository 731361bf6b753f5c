"""The class scores among whatever a network of torch returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from strzoo.errors import UsageError

# Names under which networks hand out their class scores, the usual one first.
_NAMES = ("logits", "out", "output", "pred", "predictions")


def find_scores(output: Any, name: str) -> Tensor:
    """The tensor of class scores in what a network returned.

    Args:
        output: a tensor; or a dict, an object or a sequence that holds one plainly.
        name: of the network, for messages.

    Raises:
        UsageError: it holds none, or several that could be meant.
    """
    if isinstance(output, Tensor):
        return output
    for key in _NAMES:
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return found
    values = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(values, list | tuple):
        tensors = [v for v in values if isinstance(v, Tensor)]
        plain = [t for t in tensors if t.dim() == 2 and t.is_floating_point()]
        if len(plain) == 1:
            return plain[0]
        if len(tensors) == 1:
            return tensors[0]
    raise UsageError(
        f"{name} returns {_spell(output)}; expected a tensor of floats (N, classes), or a dict or "
        f"tuple with one such tensor (named {', '.join(_NAMES[:2])})"
    )


def _spell(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(str, list(output)[:6])) or 'nothing'}"
    if isinstance(output, list | tuple):
        shapes = [str(tuple(v.shape)) for v in output if isinstance(v, Tensor)]
        return f"a {kind} of {len(output)} with tensors {', '.join(shapes[:6]) or 'none'}"
    return f"a {kind}"


def flatten_scores(scores: Tensor, name: str) -> Tensor:
    """Scores [B, classes] as fp32, without further axes of one element (1x1 maps).

    Raises:
        UsageError: they are no floats of one axis per image; `name` is the network's.
    """
    if scores.dim() > 2 and scores.shape[1:].numel() == max(scores.shape[1:]):
        scores = scores.flatten(1)
    if scores.dim() != 2 or not scores.is_floating_point():
        kind = str(scores.dtype).removeprefix("torch.")
        raise UsageError(
            f"{name} gives {kind} of shape {tuple(scores.shape)}; expected floats of "
            "shape (N, classes)"
        )
    return scores.float()
