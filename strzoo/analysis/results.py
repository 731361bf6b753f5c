"""The records of the analysis: what a network costs dense, and what its sparsity leaves of it.

Conventions: one MAC is one multiply-accumulate (the paper prints MACs as FLOPs); FLOPs are twice
the MACs. Counted in evaluation mode for one image: convolutions, linears and average pooling;
not counted: normalisation, activations, additions, max-pooling. Sparsity is zero weights over
weights of convolutions and linears. No torch here, so that reading a report needs none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

CONVENTION = "one MAC = one multiply-accumulate, FLOPs = 2 x MACs; the paper prints MACs as FLOPs"
_BLOCK = 4
_NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class LayerCount:
    """One convolution or linear: `shape` of its weight, `output` shape, MACs, for one image."""

    name: str
    type: str
    shape: tuple[int, ...]
    output: tuple[int, ...]
    macs: int

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class DenseCounts:
    """What a network costs when dense, for one image of `input_size` (channels, height, width).

    `params` counts all trained parameters but STR thresholds; `other_macs` the operators that
    are not a layer, such as the average pool; `uncounted` the operators outside the convention,
    with how often each occurs; `notes` what limits the count.
    """

    model: str
    input_size: tuple[int, ...]
    params: int
    layers: tuple[LayerCount, ...]
    other_macs: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    uncounted: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerReport:
    """One layer; `nonzeros` is None where the weights are not known, `threshold` where none is,
    `zero_blocks` (those of `blocks` whose weights are all zero) where it was not counted."""

    name: str
    type: str
    shape: tuple[int, ...]
    output: tuple[int, ...]
    params: int
    nonzeros: int | None
    threshold: float | None
    dense_macs: int
    zero_blocks: int | None = None

    @property
    def blocks(self) -> int:
        """Blocks of four consecutive input channels of an output channel, at one place of the
        kernel, which integer dot products take at once; the last of a channel may be smaller."""
        inputs = self.shape[1] if len(self.shape) > 1 else 1
        return self.params // inputs * -(-inputs // _BLOCK) if inputs else 0

    @property
    def sparsity(self) -> float | None:
        """Percent of zero weights."""
        if self.nonzeros is None:
            return None
        return 100.0 * (self.params - self.nonzeros) / self.params if self.params else 0.0

    @property
    def sparse_macs(self) -> int | None:
        """MACs left when zero weights are skipped: dense MACs x (1 - sparsity)."""
        if self.nonzeros is None:
            return None
        return self.dense_macs * self.nonzeros // self.params if self.params else 0


@dataclass(frozen=True)
class Report:
    """A model layer by layer, and its totals.

    `source` says where the sparsity comes from: "weights", "budget", or "architecture" when
    neither is at hand (then the sparse figures are None). `architecture` is a name that
    `create_model` takes, or the class of the network; empty where it is not known. `incomplete`
    names what may hold weights and was not understood: the layers are then not all, sparsity
    and MACs have no totals, the others are sums over the known layers and are not printed.
    `unsized` names layers whose output size, and so whose MACs, could not be told: MACs have no
    totals then. `num_classes` and `options` are further arguments of `create_model`; None and none
    where they are not known.
    """

    model: str
    source: str
    input_size: tuple[int, ...]
    layers: tuple[LayerReport, ...]
    params: int
    other_macs: Mapping[str, int]
    uncounted: Mapping[str, int]
    notes: tuple[str, ...] = ()
    architecture: str = ""
    incomplete: tuple[str, ...] = ()
    unsized: tuple[str, ...] = ()
    num_classes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Convolution and linear weights, zeros included."""
        return sum(layer.params for layer in self.layers)

    @property
    def nonzeros(self) -> int | None:
        """Convolution and linear weights that are not zero."""
        if self.incomplete or any(layer.nonzeros is None for layer in self.layers):
            return None
        return sum(layer.nonzeros or 0 for layer in self.layers)

    @property
    def sparsity(self) -> float | None:
        """Percent of zeros among the convolution and linear weights."""
        nonzeros = self.nonzeros
        if nonzeros is None:
            return None
        return 100.0 * (self.weights - nonzeros) / self.weights if self.weights else 0.0

    @property
    def block_sparsity(self) -> float | None:
        """Percent of zero blocks among the blocks of four input channels of all layers in which
        they were counted; None if there are none."""
        known = [layer for layer in self.layers if layer.zero_blocks is not None]
        blocks = sum(layer.blocks for layer in known)
        if self.incomplete or not blocks:
            return None
        return 100.0 * sum(layer.zero_blocks or 0 for layer in known) / blocks

    @property
    def dense_macs(self) -> int | None:
        """MACs with all weights; None where layers are missing or one has no known size."""
        if self.incomplete or self.unsized:
            return None
        return sum(layer.dense_macs for layer in self.layers) + sum(self.other_macs.values())

    @property
    def sparse_macs(self) -> int | None:
        """MACs left when zero weights are skipped; operators that are no layer count in full."""
        if self.nonzeros is None or self.unsized:
            return None
        return sum(layer.sparse_macs or 0 for layer in self.layers) + sum(self.other_macs.values())

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        dense, sparse = self.dense_macs, self.sparse_macs
        whole = not self.incomplete
        return {
            "schema": 1,
            "model": self.model,
            "architecture": self.architecture,
            "source": self.source,
            "convention": CONVENTION,
            "input_size": list(self.input_size),
            "totals": {
                "params": self.params if whole else None,
                "weights": self.weights if whole else None,
                "nonzeros": self.nonzeros,
                "sparsity": self.sparsity,
                "block_sparsity": self.block_sparsity,
                "dense_macs": dense,
                "sparse_macs": sparse,
                "dense_flops": None if dense is None else 2 * dense,
                "sparse_flops": None if sparse is None else 2 * sparse,
            },
            "layers": [
                {
                    "name": layer.name,
                    "type": layer.type,
                    "shape": list(layer.shape),
                    "output": list(layer.output),
                    "params": layer.params,
                    "nonzeros": layer.nonzeros,
                    "sparsity": layer.sparsity,
                    "threshold": layer.threshold,
                    "zero_blocks": layer.zero_blocks,
                    "dense_macs": layer.dense_macs,
                    "sparse_macs": layer.sparse_macs,
                }
                for layer in self.layers
            ],
            "other_macs": dict(self.other_macs),
            "uncounted": dict(self.uncounted),
            "notes": list(self.notes),
            "incomplete": list(self.incomplete),
        }
