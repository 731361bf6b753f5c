"""What `fit` takes as data, as a loader of the training loop."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from strzoo.arguments import check_path
from strzoo.data.imageset import ImageSet
from strzoo.data.layouts import find_samples
from strzoo.data.preprocessing import fit_channels
from strzoo.data.training_images import find_training_samples
from strzoo.errors import StrzooError, UsageError
from strzoo.settings import user_path
from strzoo.sparse.selection import takes_grey
from strzoo.training.config import TrainConfig
from strzoo.training.loaders import Batches, FileLoader, Loader, MemoryLoader
from strzoo.training.trial import blank_images, count_outputs

FitData: TypeAlias = (
    "ImageSet | tuple[Tensor, Tensor] | str | os.PathLike[str] | Dataset[Any]"
    " | DataLoader[Any] | Iterable[tuple[Tensor, Tensor]]"
)
_TAKES = (
    "a folder, an ImageSet, a pair of tensors (images, labels), a torch Dataset, or a loader of "
    "batches (images, labels)"
)
_IMAGES = "give float tensors [N, 3, H, W], normalised"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class FitImages:
    """The images to train on: their loader, shape and type of one of them, images of a step, which
    a loader of batches decides, classes that the network tells apart, and `smallest` of `DataSets`.
    """

    loader: Loader
    shape: tuple[int, ...]
    type: torch.dtype
    batch: int
    classes: int
    smallest: tuple[int, str] | None = None


def open_fit_data(
    model: nn.Module, data: FitData, config: TrainConfig, device: torch.device
) -> FitImages:
    """The images that `data` means, checked against the network.

    Args:
        model: maps images [N, 3, H, W] to logits [N, classes].
        data: what `fit` takes.
        config: batch size, image size, augmentation and workers.
        device: of the network.

    Raises:
        UsageError: it is nothing of that kind, or does not fit the network.
        StrzooError and its subclasses: it cannot be read.
    """
    if isinstance(data, str | os.PathLike):
        check_path(data, "data")
        return _open_folder(model, user_path(data), config, device)
    if isinstance(data, ImageSet):
        data = (data.images, data.labels)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(x, Tensor) for x in data):
        images, labels = _check_batch(data, "the data")
        if not len(labels):
            raise UsageError("there are no images to train on")
        classes = count_outputs(model, images[:1].to(device))
        _check_labels(labels, classes)
        loader = MemoryLoader(images, labels, config, device)
        return FitImages(loader, tuple(images.shape[1:]), images.dtype, config.batch_size, classes)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        dataset = DatasetLoader(data, config.workers or 0)
        images, _ = next(dataset.batches([0], 1))
        dataset.classes = classes = count_outputs(model, images.to(device))
        return FitImages(dataset, tuple(images.shape[1:]), images.dtype, config.batch_size, classes)
    if isinstance(data, Iterable) and not isinstance(data, Tensor | dict):
        batches = BatchesLoader(data)
        images = batches.first
        batches.classes = classes = count_outputs(model, images[:1].to(device))
        return FitImages(
            batches, tuple(images.shape[1:]), images.dtype, len(images), classes,
            (batches.smallest, "set drop_last=True in the loader, or another batch_size"),
        )  # fmt: skip
    raise UsageError(f"a {type(data).__name__} is no data to train on; give {_TAKES}")


def _open_folder(
    model: nn.Module, path: Path, config: TrainConfig, device: torch.device
) -> FitImages:
    """`path`/train/CLASS/image, or `path`/CLASS/image, or any layout that evaluation knows."""
    if not path.exists():
        raise StrzooError(f"{path} does not exist; give {_TAKES}")
    preprocessing = config.preprocessing()
    if takes_grey(model):
        preprocessing = fit_channels(preprocessing, 1)
    shape = (preprocessing.channels, preprocessing.crop, preprocessing.crop)
    blank = blank_images(1, shape, device)
    classes = count_outputs(model, blank)
    inner = (path / "train").is_dir()
    samples = find_training_samples(path, classes) if inner else find_samples(path, classes)
    loader = FileLoader(samples, preprocessing, config, device)
    return FitImages(loader, shape, blank.dtype, config.batch_size, classes)


class DatasetLoader:
    """A torch data set whose items are (image, label).

    Args:
        dataset: image, float [3, H, W], and class number by index.
        workers: processes that load items; 0 loads them in this one.
    """

    def __init__(self, dataset: Dataset[Any], workers: int) -> None:
        self._dataset, self._workers = dataset, workers
        self.classes: int | None = None
        if not hasattr(dataset, "__len__"):
            raise UsageError(f"the {type(dataset).__name__} has no length; give {_TAKES}")

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def batches(self, indices: Sequence[int], size: int, *, epoch: int | None = None) -> Batches:
        parts = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
        loader = DataLoader(
            self._dataset, batch_sampler=parts, num_workers=self._workers,
            generator=torch.Generator(),
        )  # fmt: skip
        for batch in _reading(loader, f"the {type(self._dataset).__name__}"):
            images, labels = _check_batch(batch, f"the {type(self._dataset).__name__}")
            _check_labels(labels, self.classes)
            yield images, labels


class BatchesLoader:
    """Batches that the user's own loader makes, in its own size and order.

    Args:
        batches: an iterable of (images, labels) with a length, begun anew in each epoch.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches, self._name = batches, f"the {type(batches).__name__}"
        self.classes: int | None = None
        try:
            self._count = len(batches)  # type: ignore[arg-type]
        except TypeError:
            raise UsageError(
                f"{self._name} has no length, so that no schedule can be made; give {_TAKES}"
            ) from None
        if not self._count:
            raise UsageError("there are no images to train on")
        self.first, _ = _check_batch(next(_reading(batches, self._name)), self._name)
        self.smallest = min(len(self.first), _count_last(batches))

    def __len__(self) -> int:
        return self._count * len(self.first)

    def batches(self, indices: Sequence[int], size: int, *, epoch: int | None = None) -> Batches:
        count = len(indices) // size
        for number, batch in enumerate(_reading(self._batches, self._name)):
            if number == count:
                return
            images, labels = _check_batch(batch, self._name)
            _check_labels(labels, self.classes)
            yield images, labels


def _count_last(batches: Iterable[Any]) -> int:
    """Images of the last batch, as far as a loader tells it without making it."""
    unknown = 2  # as many as no layer minds
    if isinstance(batches, list | tuple):
        images, _ = _check_batch(batches[-1], f"the {type(batches).__name__}")
        return len(images)
    if not isinstance(batches, DataLoader) or batches.batch_size is None or batches.drop_last:
        return unknown
    try:
        count = len(batches.sampler)  # type: ignore[arg-type]
        return count % batches.batch_size or batches.batch_size
    except TypeError:
        return unknown


def _reading(items: Iterable[_Item], name: str) -> Generator[_Item, None, None]:
    """The items; what collating them raises, as an error that says what is expected."""
    try:
        yield from items
    except TypeError as error:
        raise UsageError(
            f"{name} gives something that makes no batch ({' '.join(str(error).split())[:120]}); "
            "its items must be (float tensor [3, H, W], class number)"
        ) from error


def _check_batch(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UsageError(f"{name} gives {type(batch).__name__}, not pairs (images, labels)")
    images, labels = batch
    if not isinstance(images, Tensor):
        raise UsageError(f"{name} has images that are a {type(images).__name__}; {_IMAGES}")
    if not images.is_floating_point() or images.dim() < 2:
        raise UsageError(
            f"{name} has images of {images.dtype}, shape {tuple(images.shape)}; {_IMAGES}"
        )
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    if not whole or labels.shape != images.shape[:1]:
        raise UsageError(
            f"{name} has labels that are not one class number for each of {len(images)} images"
        )
    return images, labels.long()


def _check_labels(labels: Tensor, classes: int | None) -> None:
    if classes is not None and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise UsageError(
            f"there are labels from {int(labels.min())} to {int(labels.max())}, the network has "
            f"{classes} outputs: 0 to {classes - 1}"
        )
