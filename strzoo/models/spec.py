"""ModelSpec: the arguments of `create_model` that rebuild the network of a state dict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from strzoo.arguments import show
from strzoo.errors import UnknownNameError, UsageError, one_line
from strzoo.models.architecture import Architecture, ImageSize, Options
from strzoo.models.create import create_model
from strzoo.models.external import EMPTY, check_options, outline_network
from strzoo.models.external_names import is_external, runs_code
from strzoo.models.heads import find_head
from strzoo.models.registry import find_architecture
from strzoo.sparse.selection import prunable_layers
from strzoo.zoo.registry import Preprocessing

_MOST_WEIGHTS = 1 << 31


@dataclass(frozen=True)
class ModelSpec:
    """A network without its weights.

    Args:
        architecture: a name that `create_model` knows.
        num_classes: outputs of the classifier; 0 leaves it to a network from elsewhere.
        options: of that architecture; those left out have their defaults.
    """

    architecture: str
    num_classes: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = {**self.record.options, **self.options}
        object.__setattr__(self, "options", MappingProxyType(options))

    def __hash__(self) -> int:
        return hash((self.architecture, self.num_classes, json.dumps(dict(self.options))))

    @property
    def record(self) -> Architecture:
        return find_architecture(self.architecture)

    def build(self, layer: Any = "dense") -> nn.Module:
        """The network, randomly initialised, with that layer type."""
        return create_model(
            self.architecture, num_classes=self.num_classes, layer=layer, **self.options
        )

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that are not the defaults."""
        usual = self.record.options
        return {n: v for n, v in self.options.items() if n not in usual or usual[n] != v}

    @property
    def input_size(self) -> ImageSize:
        """Channels, height, width of the images the network was made for."""
        return self.record.input_size(self.options)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What its source states that images are prepared by; None is the usual way."""
        return self.record.preprocessing(self.options)

    @property
    def head(self) -> str:
        """Name of the classifier.

        Raises:
            UsageError: a network from elsewhere has no layer of that many outputs.
        """
        if self.record.head:
            return self.record.head
        return find_head(_outline(self), self.num_classes or None)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every entry of the dense state dict."""
        return MappingProxyType({k: tuple(v.shape) for k, v in _entries(self).items()})

    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Type of the numbers of every entry of the dense state dict, fp32 for all fractions."""
        found = {key: value.dtype for key, value in _entries(self).items()}
        single = {k: torch.float32 if t.is_floating_point else t for k, t in found.items()}
        return MappingProxyType(single)

    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions and linear layers, in order."""
        return tuple(prunable_layers(_outline(self)))

    def aliases(self) -> Mapping[str, str]:
        """Further names of convolutions and linear layers that stand in several places of the
        network, and the name that `layers` has: the state dict has entries by all of them."""
        network = _outline(self)
        names = {id(layer): name for name, layer in prunable_layers(network).items()}
        found = network.named_modules(remove_duplicate=False)
        several = {name: names[id(layer)] for name, layer in found if id(layer) in names}
        return {name: first for name, first in several.items() if name != first}

    def as_dict(self) -> dict[str, Any]:
        """Plain values: architecture, num_classes and the options side by side; those of a network
        from elsewhere under `options`."""
        found = {"architecture": self.architecture, "num_classes": self.num_classes}
        if self.record.any_options:
            return {**found, "options": dict(self.options)}
        return {**found, **self.options}

    @property
    def outline(self) -> nn.Module:
        """The network without values, to read; not to be changed."""
        return _outline(self)


def stated_network(
    architecture: str, num_classes: int | None = None, options: Options = EMPTY
) -> ModelSpec:
    """The network that a file describes: code that it names is not run.

    Args:
        architecture, options: as the file states them.
        num_classes: by default those of the architecture.

    Raises:
        UnknownNameError: no such architecture, or code.
        UsageError: an option is not one of the architecture's, or the network is huge.
    """
    if not architecture:
        raise UnknownNameError("it does not say of which architecture it is")
    if is_external(architecture) and runs_code(architecture):
        raise UnknownNameError(
            f"it names the code {one_line(architecture, 80)} as its network, which is not run"
        )
    record = find_architecture(architecture)
    if record.any_options:
        check_options(options, architecture, foreign=True)
    else:
        for option, value in options.items():
            if not _is_like(value, record.options.get(option)):
                raise UsageError(
                    f"it states {one_line(option, 40)!r}: {show(value)}, which is no option of "
                    f"{record.name}; it has {', '.join(record.options)}"
                )
    spec = ModelSpec(architecture, num_classes or record.num_classes, dict(options))
    if sum(map(math.prod, spec.shapes().values())) > _MOST_WEIGHTS:
        raise UsageError(f"the {record.name} that it states is refused: it has too many weights")
    return spec


def _is_like(value: Any, usual: Any) -> bool:
    """Whether an option may have that value, by its default."""
    if isinstance(usual, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(usual)


@lru_cache(maxsize=16)
def _outline(spec: ModelSpec) -> nn.Module:
    return outline_network(spec.build)


@lru_cache(maxsize=16)
def _entries(spec: ModelSpec) -> Mapping[str, torch.Tensor]:
    """The dense state dict, without values: collecting it takes milliseconds, and opening a file
    asks for it several times."""
    return _outline(spec).state_dict()
