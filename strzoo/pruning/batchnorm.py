"""BatchNorm statistics taken again: the network that was pruned has others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def renew_statistics(network: nn.Module, batches: Sequence[Tensor]) -> int:
    """Set the running statistics of every BatchNorm to the means over `batches`.

    Args:
        network: in evaluation mode; everything but BatchNorm stays in it.
        batches: images as the network takes them.

    Returns:
        How many layers have such statistics.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
        layer.train()
    if layers:
        for images in batches:
            network(images)
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
        layer.eval()
    return len(layers)
