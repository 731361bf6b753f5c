"""Loss and accuracy as they add up over images, and exactly over a validation set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from strzoo.data.loading import shard
from strzoo.distributed import Group
from strzoo.training.answers import read_logits
from strzoo.training.loaders import Loader

TOP = 5


class Metric:
    """Sums over images on `device`: loss, right first answers, right in the first five, images.

    Args:
        device: where the logits are.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Enter some images.

        Args:
            logits: [B, C].
            labels: int64 [B].
            loss: their mean, a scalar.
        """
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

    @property
    def loss_sum(self) -> float:
        """Sum of the losses so far, not finite once one was not; a GPU has to be waited for."""
        return float(self.sums.cpu().numpy()[0])

    def compute(self, group: Group | None = None) -> tuple[float, float, float]:
        """Mean loss, top-1 and top-5 in percent; 0 before the first image.

        Args:
            group: sum over all of its processes; all of them must call.
        """
        parts = (group or Group()).gather(self.sums.tolist())
        loss, first, five, images = (sum(column) for column in zip(*parts, strict=True))
        images = max(images, 1.0)
        return loss / images, 100 * first / images, 100 * five / images


@torch.inference_mode()
def validate(
    model: nn.Module,
    loader: Loader,
    *,
    batch_size: int,
    device: torch.device,
    group: Group,
    autocast: Callable[[], contextlib.AbstractContextManager[object]],
    channels_last: bool,
    check: Callable[[], None] = lambda: None,
) -> tuple[float, float, float]:
    """Accuracy of `model` on all images of `loader`, each counted once however many processes
    share them. Leaves the model in evaluation mode.

    Args:
        model: maps [B, 3, H, W] to logits [B, C], or to what holds them.
        loader: the validation images.
        batch_size: images at once.
        device: where the model is.
        group: the processes that share the images.
        autocast: makes the context to run the model in.
        channels_last: memory layout of the images.
        check: called before each batch; what it raises ends the validation.

    Returns:
        Mean cross-entropy, top-1 and top-5 in percent, the same in every process.
    """
    model.eval()
    metric = Metric(device)
    mine = shard(range(len(loader)), group.rank, group.world)
    with contextlib.closing(loader.batches(mine, batch_size)) as batches:
        for images, labels in batches:
            check()
            labels = labels.to(device, non_blocking=True)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast():
                logits = read_logits(model(images)).float()
            metric.add(logits, labels, nn.functional.cross_entropy(logits, labels))
    return metric.compute(group)
