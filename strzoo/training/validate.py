"""How good and how sparse a network is: exact counts over a validation set, zeros per layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from strzoo.data.loading import shard
from strzoo.distributed import Group
from strzoo.sparse.layers import SparseLayer, mean_threshold
from strzoo.sparse.sparsify import prunable_layers
from strzoo.training.datasets import Feed
from strzoo.training.results import LayerState

TOP = 5


class Tally:
    """Sums over images, on the device: loss, right in the first answer, right in five, images."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Enter logits [B, C] for labels [B]; `loss` is the mean of these images."""
        best = logits.detach().topk(min(TOP, logits.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        images = len(labels)
        self.sums += torch.stack(
            [
                loss.detach().double() * images,
                hits[:, 0].sum().double(),
                hits.sum().double(),
                torch.full((), images, dtype=torch.float64, device=logits.device),
            ]
        )

    def read(self, group: Group | None = None) -> tuple[float, float, float]:
        """Mean loss, top-1 and top-5 in percent, over all processes of `group`."""
        parts = (group or Group()).gather(self.sums.tolist())
        loss, first, five, images = (sum(column) for column in zip(*parts, strict=True))
        images = max(images, 1.0)
        return loss / images, 100 * first / images, 100 * five / images


@torch.inference_mode()
def validate(
    model: nn.Module,
    feed: Feed,
    *,
    batch_size: int,
    device: torch.device,
    group: Group,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
    channels_last: bool,
    check: Callable[[], None] = lambda: None,
) -> tuple[float, float, float]:
    """Cross-entropy, top-1 and top-5 (percent) of `model` on all images of `feed`, each counted
    once however many processes share them. Leaves the model in evaluation mode.

    Args:
        check: called before each batch; what it raises ends the validation.
    """
    model.eval()
    tally = Tally(device)
    mine = shard(range(len(feed)), group.rank, group.world)
    labels = torch.from_numpy(feed.labels[:, 0])
    with contextlib.closing(feed.batches(mine, batch_size)) as batches:
        for images, indices in batches:
            check()
            right = labels[indices].to(device, non_blocking=True)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast():
                logits = model(images).float()
            tally.add(logits, right, nn.functional.cross_entropy(logits, right))
    return tally.read(group)


@torch.no_grad()
def measure_layers(model: nn.Module) -> dict[str, LayerState]:
    """Zeros and threshold of each convolution and linear layer, in network order."""
    layers = {}
    for name, layer in prunable_layers(model).items():
        weight = layer.effective_weight() if isinstance(layer, SparseLayer) else layer.weight
        assert isinstance(weight, Tensor)
        zeros = weight.numel() - int(torch.count_nonzero(weight))
        layers[name] = LayerState(
            weight.numel(), 100.0 * zeros / weight.numel(), mean_threshold(layer)
        )
    return layers


def total_sparsity(layers: dict[str, LayerState]) -> float:
    """Percent of zeros over all the layers together."""
    weights = sum(layer.weights for layer in layers.values())
    zeros = sum(layer.weights * layer.sparsity for layer in layers.values())
    return zeros / weights
