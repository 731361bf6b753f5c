"""ModelSpec: the arguments of `create_model` that rebuild the network of a state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from strzoo.models.architecture import Architecture, ImageSize
from strzoo.models.create import create_model
from strzoo.models.external import outline_network
from strzoo.models.heads import find_head
from strzoo.models.registry import find_architecture
from strzoo.sparse.selection import prunable_layers
from strzoo.zoo.registry import Preprocessing


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


@lru_cache(maxsize=16)
def _outline(spec: ModelSpec) -> nn.Module:
    return outline_network(spec.build)


@lru_cache(maxsize=16)
def _entries(spec: ModelSpec) -> Mapping[str, torch.Tensor]:
    """The dense state dict, without values: collecting it takes milliseconds, and opening a file
    asks for it several times."""
    return _outline(spec).state_dict()
