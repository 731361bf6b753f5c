"""How sparse each layer of a network is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from strzoo.sparse.layers import SparseLayer, mean_threshold
from strzoo.sparse.selection import prunable_layers
from strzoo.training.results import LayerState


@torch.no_grad()
def measure_layers(model: nn.Module) -> dict[str, LayerState]:
    """Zeros and threshold of each convolution and linear layer of `model`, in network order."""
    layers = {}
    for name, layer in prunable_layers(model).items():
        weight = layer.effective_weight() if isinstance(layer, SparseLayer) else layer.weight
        assert isinstance(weight, Tensor)
        zeros = weight.numel() - int(torch.count_nonzero(weight))
        layers[name] = LayerState(
            weight.numel(), 100.0 * zeros / weight.numel(), mean_threshold(layer)
        )
    return layers


def total_sparsity(layers: Mapping[str, LayerState]) -> float:
    """Percent of zeros over all the layers together; 0 if there are none."""
    weights = sum(layer.weights for layer in layers.values())
    zeros = sum(layer.weights * layer.sparsity for layer in layers.values())
    return zeros / weights if weights else 0.0
