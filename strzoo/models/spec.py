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
from strzoo.models.registry import find_architecture
from strzoo.sparse.sparsify import prunable_layers


@dataclass(frozen=True)
class ModelSpec:
    """A network without its weights.

    Args:
        architecture: a name that `create_model` knows.
        num_classes: outputs of the classifier.
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

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every entry of the dense state dict."""
        return _outline(self)[0]

    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions and linear layers, in order."""
        return _outline(self)[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values: architecture, num_classes and the options side by side."""
        return {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            **self.options,
        }


@lru_cache(maxsize=16)
def _outline(spec: ModelSpec) -> tuple[Mapping[str, tuple[int, ...]], tuple[str, ...]]:
    with torch.device("meta"):
        model = spec.build()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return MappingProxyType(shapes), tuple(prunable_layers(model))
