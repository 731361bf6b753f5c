"""Images of a run as batches on the device, by number: from memory or from files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from strzoo.data.images import BrokenImageError
from strzoo.data.loading import default_workers, load_batches, normalise
from strzoo.data.samples import Samples
from strzoo.training.augmentation import RandomTransform, Shifts, build_policy
from strzoo.training.config import TrainConfig
from strzoo.zoo.registry import Preprocessing

Batches = Generator[tuple[Tensor, Tensor], None, None]


class Loader(Protocol):
    """Labelled images by number."""

    def __len__(self) -> int: ...

    def batches(self, indices: Sequence[int], size: int, *, epoch: int | None = None) -> Batches:
        """Some images, in the order of `indices`.

        Args:
            indices: their numbers.
            size: images at once; the last batch can be smaller.
            epoch: which augmentation they get, counted from 0; None leaves them plain.

        Yields:
            Images, float32 [B, 3, H, W] on the device, and labels, int64 [B].
        """
        ...


class MemoryLoader:
    """Images that stay on the device.

    Args:
        images: [N, 3, H, W], normalised unless `finish` does it.
        labels: int64 [N].
        config: augmentation, padding and seed.
        device: of the network.
        finish: makes a batch of images, augmented already, the network's input.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        config: TrainConfig,
        device: torch.device,
        finish: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self._images, self._labels = images.to(device), labels.to(device)
        self._config, self._finish = config, finish

    def __len__(self) -> int:
        return len(self._labels)

    def batches(self, indices: Sequence[int], size: int, *, epoch: int | None = None) -> Batches:
        kind, shifts = self._config.augmentation, None
        if epoch is not None and kind != "none":
            shifts = Shifts.draw(
                len(self), self._config.padding, flip=kind.endswith("flip"),
                seed=self._config.seed, epoch=epoch,
            )  # fmt: skip
        for chosen in torch.tensor(indices, dtype=torch.long).split(size):
            where = chosen.to(self._images.device)
            images = self._images[where]
            if shifts is not None:
                images = shifts.apply(images, chosen)
            yield self._finish(images), self._labels[where]


class FileLoader:
    """Image files, decoded and augmented in worker processes.

    Args:
        samples: where the images are, and their labels.
        preprocessing: resize, crop and normalisation.
        config: augmentation, padding, seed, workers and memory layout.
        device: of the network.
        processes: of this machine, which share its cores.
    """

    def __init__(
        self,
        samples: Samples,
        preprocessing: Preprocessing,
        config: TrainConfig,
        device: torch.device,
        processes: int = 1,
    ) -> None:
        self._samples, self._preprocessing, self._config = samples, preprocessing, config
        self._labels = torch.from_numpy(samples.labels[:, 0])
        self._device = device
        chosen = config.workers
        self._workers = default_workers(device, processes) if chosen is None else chosen
        self._policy = build_policy(config)

    def __len__(self) -> int:
        return len(self._samples)

    def batches(self, indices: Sequence[int], size: int, *, epoch: int | None = None) -> Batches:
        config, preprocessing = self._config, self._preprocessing
        transform = None
        if epoch is not None:
            transform = RandomTransform(
                config.augmentation, preprocessing, config.padding, config.seed, epoch,
                config.crop_area, config.crop_ratio, self._policy,
            )  # fmt: skip
        loaded = load_batches(
            self._samples, indices, preprocessing, batch_size=size, workers=self._workers,
            device=self._device, transform=transform,
        )  # fmt: skip
        with contextlib.closing(loaded):
            for batch in loaded:
                for row, reason in batch.broken.items():
                    name = self._samples.names[int(batch.indices[row])]
                    raise BrokenImageError(
                        f"cannot read {self._samples.location}/{name}: {reason}; replace it by "
                        "a readable image, then go on with resume=auto, or remove it and begin a "
                        "new run"
                    )
                pixels = batch.pixels.to(self._device, non_blocking=True)
                images = normalise(pixels, preprocessing, channels_last=config.channels_last)
                yield images, self._labels[batch.indices]


class PartLoader:
    """Some images of another loader.

    Args:
        loader: the other.
        numbers: of the images, in the order in which they are numbered here.
    """

    def __init__(self, loader: Loader, numbers: Sequence[int]) -> None:
        self._loader, self._numbers = loader, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def batches(self, indices: Sequence[int], size: int, *, epoch: int | None = None) -> Batches:
        chosen = [self._numbers[index] for index in indices]
        return self._loader.batches(chosen, size, epoch=epoch)
