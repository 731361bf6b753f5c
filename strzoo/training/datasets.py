"""The images of a run: found, checked against the network, and fed to it batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from strzoo.data.cifar import ArraySource, is_cifar, read_cifar
from strzoo.data.digits import load_digits
from strzoo.data.images import BrokenImageError
from strzoo.data.layouts import find_samples, find_training_samples
from strzoo.data.loading import default_workers, load_batches, normalise
from strzoo.data.preprocessing import CIFAR_MEAN, CIFAR_STD, IMAGENET
from strzoo.data.samples import Samples
from strzoo.errors import UsageError
from strzoo.training.augmentation import RandomTransform, Shifts
from strzoo.training.config import TrainConfig
from strzoo.zoo.registry import Preprocessing


class Feed(Protocol):
    """Labelled images by number."""

    labels: np.ndarray  # int64 [N, L], as `Samples.labels`

    def __len__(self) -> int: ...

    def batches(
        self, indices: Sequence[int], size: int, *, epoch: int | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """The images `indices` in their order, `size` at a time: float32 [B, 3, H, W] and their
        numbers [B] (int64, on the CPU). Augmented as `epoch` has it; None leaves them plain."""
        ...


@dataclass(frozen=True)
class DataSets:
    """What a run trains and validates on, and one line about it."""

    train: Feed
    validation: Feed
    description: str


class MemoryFeed:
    """Images [N, 3, H, W] that stay on the device; `finish` makes them the network's input."""

    def __init__(
        self,
        images: Tensor,
        labels: np.ndarray,
        config: TrainConfig,
        device: torch.device,
        finish: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self.labels = labels
        self._images, self._finish = images.to(device), finish
        self._config = config

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, indices: Sequence[int], size: int, *, epoch: int | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        kind, shifts = self._config.augmentation, None
        if epoch is not None and kind != "none":
            shifts = Shifts.draw(
                len(self), self._config.padding, flip=kind.endswith("flip"),
                seed=self._config.seed, epoch=epoch,
            )  # fmt: skip
        for chosen in torch.tensor(indices, dtype=torch.long).split(size):
            images = self._images[chosen.to(self._images.device)]
            if shifts is not None:
                images = shifts.apply(images, chosen)
            yield self._finish(images), chosen


class FileFeed:
    """Image files, decoded and augmented in worker processes."""

    def __init__(
        self,
        samples: Samples,
        steps: Preprocessing,
        config: TrainConfig,
        device: torch.device,
        processes: int,
    ) -> None:
        self.labels = samples.labels
        self._samples, self._steps, self._config = samples, steps, config
        self._device = device
        chosen = config.workers
        self._workers = default_workers(device, processes) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._samples)

    def batches(
        self, indices: Sequence[int], size: int, *, epoch: int | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        config, steps = self._config, self._steps
        transform = None
        if epoch is not None:
            transform = RandomTransform(
                config.augmentation, steps, config.padding, config.seed, epoch
            )
        loaded = load_batches(
            self._samples, indices, steps, batch_size=size, workers=self._workers,
            device=self._device, transform=transform,
        )  # fmt: skip
        with contextlib.closing(loaded):
            for batch in loaded:
                for row, reason in batch.broken.items():
                    name = self._samples.names[int(batch.indices[row])]
                    raise BrokenImageError(
                        f"cannot read {self._samples.location}/{name}: {reason}; repair or remove "
                        "it, then go on with resume=auto"
                    )
                pixels = batch.pixels.to(self._device, non_blocking=True)
                yield normalise(pixels, steps, channels_last=config.channels_last), batch.indices


def open_datasets(config: TrainConfig, device: torch.device, processes: int = 1) -> DataSets:
    """The data sets that `config` names.

    Args:
        processes: of this machine, which share its cores.

    Raises:
        UsageError: there is no such data, a class is empty, or the number of classes is not the
            network's.
        StrzooError, IntegrityError: something cannot be read.
    """
    opened = {"digits": _open_digits, "cifar10": _open_cifar, "cifar100": _open_cifar}.get(
        config.dataset
    )
    if opened is not None:
        return opened(config, device)
    return _open_folder(config, device, processes)


def _open_digits(config: TrainConfig, device: torch.device) -> DataSets:
    _check_classes(config, 10)
    feeds = []
    for split in ("train", "test"):
        data = load_digits(split)
        feeds.append(MemoryFeed(data.images, data.labels[:, None].numpy(), config, device))
    return DataSets(feeds[0], feeds[1], f"{len(feeds[0])} digits, {len(feeds[1])} held out")


def _open_cifar(config: TrainConfig, device: torch.device) -> DataSets:
    classes = int(config.dataset.removeprefix("cifar"))
    _check_classes(config, classes)
    path = Path(_need_data(config)).expanduser()
    if not is_cifar(path):
        raise UsageError(
            f"{path} is not CIFAR-{classes}: expected cifar-{classes}-python.tar.gz, the binary "
            "one, or an unpacked one"
        )
    steps = replace(IMAGENET, resize=32, crop=32, mean=CIFAR_MEAN, std=CIFAR_STD)
    finish = partial(_normalise_planes, steps=steps, channels_last=config.channels_last)
    feeds = []
    for split in ("train", "test"):
        samples = read_cifar(path, split)
        if len(samples.class_names) != classes:
            raise UsageError(
                f"{path} is CIFAR-{len(samples.class_names)}; use dataset=cifar"
                f"{len(samples.class_names)} or another folder"
            )
        assert isinstance(samples.source, ArraySource)
        pixels = torch.from_numpy(samples.source.pixels).permute(0, 3, 1, 2)
        feeds.append(MemoryFeed(pixels, samples.labels, config, device, finish))
    return DataSets(feeds[0], feeds[1], f"{samples.layout.split(',')[0]} in {path}")


def _normalise_planes(images: Tensor, *, steps: Preprocessing, channels_last: bool) -> Tensor:
    return normalise(images.permute(0, 2, 3, 1), steps, channels_last=channels_last)


def _open_folder(config: TrainConfig, device: torch.device, processes: int) -> DataSets:
    data = _need_data(config)
    train = find_training_samples(data, config.num_classes)
    held_out = find_samples(config.validation or data, config.num_classes)
    if not held_out.imagenet and held_out.class_names != train.class_names:
        odd = sorted(set(held_out.class_names) ^ set(train.class_names))
        raise UsageError(
            f"{held_out.location} and {train.location} have different classes: {', '.join(odd[:3])}"
        )
    steps = replace(IMAGENET, resize=round(config.image_size * 8 / 7), crop=config.image_size)
    feeds = [FileFeed(s, steps, config, device, processes) for s in (train, held_out)]
    return DataSets(
        feeds[0], feeds[1],
        f"{len(train):,} images in {train.location}, {len(held_out):,} in {held_out.location}",
    )  # fmt: skip


def _check_classes(config: TrainConfig, classes: int) -> None:
    if config.num_classes != classes:
        raise UsageError(
            f"{config.dataset} has {classes} classes, the model has {config.num_classes}; set "
            f"num_classes={classes}"
        )


def _need_data(config: TrainConfig) -> str:
    if config.data is None:
        raise UsageError(f"dataset={config.dataset} needs data=FOLDER")
    return config.data
