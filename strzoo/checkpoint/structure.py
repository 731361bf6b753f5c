"""Which call builds a network in memory again, and whether it really builds that network."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from strzoo.errors import UsageError, one_line
from strzoo.models.heads import SOURCE
from strzoo.models.spec import ModelSpec

_SPARSE = re.compile(r"\b(STR|DNW|GMP)(Conv2d|Linear)\(")
# Layers that do nothing in evaluation: networks that differ in them compute the same.
_IDLE = re.compile(r"\b(Dropout\w*|DropPath|StochasticDepth)\(.*\)$")


def stated_source(network: nn.Module) -> ModelSpec | None:
    """What `create_model` has noted on a network from elsewhere; None if nothing."""
    source = getattr(network, SOURCE, None)
    if not isinstance(source, dict):
        return None
    return ModelSpec(source["architecture"], source["num_classes"], source["options"])


def guess_source(network: nn.Module) -> str | None:
    """The `timm:NAME` that a network of timm says it is; None for others."""
    stated: Any = getattr(network, "pretrained_cfg", None)
    if type(network).__module__.partition(".")[0] != "timm" or not isinstance(stated, dict):
        return None
    name = stated.get("architecture")
    return f"timm:{name}" if isinstance(name, str) and name else None


def check_structure(network: nn.Module, spec: ModelSpec) -> None:
    """Raise a UsageError unless `spec` builds a network of the same layers as `network`.

    Equal keys and shapes are not enough: activations, strides and the like have no weights.
    """
    wanted, found = _spell_layers(network), _spell_layers(spec.outline)
    for mine, theirs in zip(wanted, found, strict=False):
        if mine != theirs:
            break
    else:
        if len(wanted) == len(found):
            return
        mine, theirs = f"{len(wanted)} lines", f"{len(found)} lines"
    raise UsageError(
        f"{spec.architecture} builds another network than this {type(network).__name__}: "
        f"{one_line(theirs, 100)} in place of {one_line(mine, 100)}; make it by "
        f"strzoo.create_model({spec.architecture!r}, ...) with all its arguments, which the "
        "checkpoint then keeps"
    )


def _spell_layers(network: nn.Module) -> list[str]:
    lines = _SPARSE.sub(r"\2(", repr(network)).splitlines()
    return [_IDLE.sub("Identity()", line) for line in lines]
