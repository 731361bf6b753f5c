"""evaluate: exact top-1 and top-5 of a network or of an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from strzoo.data.imageset import ImageSet
from strzoo.errors import StrzooError, UsageError

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class EvalResult:
    """Integer counts over `images` images, mean cross-entropy `loss`, and the predicted class
    of each image (int64 [images])."""

    images: int
    correct_top1: int
    correct_top5: int
    loss: float
    predictions: Tensor = field(repr=False, compare=False)

    @property
    def top1(self) -> float:
        """Percent of images whose label is the predicted class."""
        return 100.0 * self.correct_top1 / self.images

    @property
    def top5(self) -> float:
        """Percent of images whose label is among the five most likely classes."""
        return 100.0 * self.correct_top5 / self.images


def evaluate(
    model: nn.Module | str | os.PathLike[str],
    data: ImageSet | Batches,
    *,
    batch_size: int = 256,
) -> EvalResult:
    """Top-1 and top-5 of `model` on `data`, counted exactly whatever the batch size.

    Args:
        model: a network (run in evaluation mode on its own device, then put back as it was),
            or an `.onnx` file (run by onnxruntime on the CPU).
        data: an `ImageSet`, or batches of images [N, 3, H, W] and labels [N].
        batch_size: for an `ImageSet`.

    Raises:
        UsageError: the data is empty or the batch size is not positive.
        StrzooError: the ONNX file cannot be loaded.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
    if not isinstance(model, nn.Module):
        return _count(_onnx_forward(Path(model)), _batches(data, batch_size))
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            return _count(lambda x: model(x.to(device)).cpu(), _batches(data, batch_size))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _batches(data: ImageSet | Batches, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if not isinstance(data, ImageSet):
        yield from data
        return
    for start in range(0, len(data), batch_size):
        chosen = slice(start, start + batch_size)
        yield data.images[chosen], data.labels[chosen]


def _count(
    forward: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> EvalResult:
    top1 = top5 = 0
    loss = 0.0
    predictions = []
    for images, labels in batches:
        logits = forward(images).float()
        labels = labels.cpu()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = ranked == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        predictions.append(ranked[:, 0])
    count = sum(len(p) for p in predictions)
    if count == 0:
        raise UsageError("there are no images to evaluate on")
    return EvalResult(count, top1, top5, loss / count, torch.cat(predictions))


def _onnx_forward(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    if not path.is_file():
        raise StrzooError(f"{path} does not exist")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no documented base class
        raise StrzooError(
            f"onnxruntime cannot load {path}: {' '.join(str(error).split())[:200]}"
        ) from error
    name = session.get_inputs()[0].name

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.cpu().numpy()})[0])

    return forward
