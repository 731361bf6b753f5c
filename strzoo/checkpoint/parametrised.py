"""Weights that a file holds in parts, folded into one: pruning masks, weight and spectral norm.

The parts are those of torch.nn.utils: `weight_orig` and `weight_mask` (prune); `weight_g` and
`weight_v`, or `parametrizations.weight.original0` and `original1` (weight_norm); `weight_orig`,
`weight_u` and `weight_v`, or `parametrizations.weight.original`, `0._u` and `0._v` (spectral_norm).
The formulas are those of the forward pass in evaluation mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_PARAMETRISED = "{layer}parametrizations.{name}."


def fold_parts(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`state` with each weight that is held in parts as one entry, and notes on what was done.

    Parts that do not belong together stay, and are missed or named later.
    """
    result = dict(state)
    done: dict[str, int] = {}
    for key in state:
        for rule, pattern, others, fold in _RULES:
            match = re.fullmatch(pattern, key)
            if match is None:
                continue
            names = [other.format(**match.groupdict()) for other in others]
            if all(name in state for name in names):
                parts = [state[name] for name in (key, *names)]
                weight = fold(*parts)
                if weight is not None:
                    for name in (key, *names):
                        result.pop(name, None)
                    result["{layer}{name}".format(**match.groupdict())] = weight
                    done[rule] = done.get(rule, 0) + 1
                    break
    return result, [f"{count} {rule}" for rule, count in done.items()]


def _mask(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask.to(weight.dtype) if weight.shape == mask.shape else None


def _weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor | None:
    """g * v / |v| (arXiv:1602.07868, eq. 2); the norm runs over the axes where g has one entry."""
    if magnitude.dim() == 0:
        return direction * (magnitude / direction.norm())
    if magnitude.dim() != direction.dim():
        return None
    axes = [i for i, n in enumerate(magnitude.shape) if n == 1]
    if any(m not in (1, d) for m, d in zip(magnitude.shape, direction.shape, strict=True)):
        return None
    length = (
        torch.linalg.vector_norm(direction, dim=axes, keepdim=True) if axes else direction.abs()
    )
    return direction * (magnitude / length)


def _spectral_norm(weight: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    """W / (u^T W v) (arXiv:1802.05957, eq. 8 and 19), W as a matrix of one row per filter."""
    matrix = weight.flatten(1) if weight.dim() > 1 else weight[:, None]
    if left.shape != matrix.shape[:1] or right.shape != matrix.shape[1:]:
        return None
    return weight / torch.dot(left, torch.mv(matrix, right))


_OLD = r"(?P<layer>.*\.|)(?P<name>[^.]+)"
_NEW = r"(?P<layer>.*\.|)parametrizations\.(?P<name>[^.]+)\.original"
_INSIDE = "{layer}parametrizations.{name}."
Rule = tuple[str, str, tuple[str, ...], Callable[..., "Tensor | None"]]
_RULES: tuple[Rule, ...] = (
    ("pruning masks multiplied in", rf"{_OLD}_orig", ("{layer}{name}_mask",), _mask),
    ("weight norms folded", rf"{_OLD}_g", ("{layer}{name}_v",), _weight_norm),
    ("weight norms folded", rf"{_NEW}0", (f"{_INSIDE}original1",), _weight_norm),
    (
        "spectral norms folded",
        rf"{_OLD}_orig",
        ("{layer}{name}_u", "{layer}{name}_v"),
        _spectral_norm,
    ),
    ("spectral norms folded", _NEW, (f"{_INSIDE}0._u", f"{_INSIDE}0._v"), _spectral_norm),
)
