"""The images that a configuration names: found, and checked against the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from strzoo.checkpoint.record import TrainedOn
from strzoo.data.cifar import ArraySource, is_cifar, read_cifar
from strzoo.data.digits import load_digits
from strzoo.data.layouts import find_samples
from strzoo.data.loading import normalise
from strzoo.data.preprocessing import CIFAR_MEAN, CIFAR_STD, IMAGENET, SMALL, fit_channels
from strzoo.data.samples import Samples
from strzoo.data.training_images import find_training_samples, has_validation, split_by_class
from strzoo.errors import UsageError
from strzoo.settings import user_path
from strzoo.training.config import TrainConfig
from strzoo.training.loaders import FileLoader, Loader, MemoryLoader, PartLoader
from strzoo.zoo.registry import Preprocessing


@dataclass(frozen=True)
class DataSets:
    """What a run trains on, what it validates on (None: it does not), and one line about them.

    `image_shape` is what the network sees of an image: channels, height, width. `preprocessing`
    is that of validation, None for images that come as tensors. `class_names` are those of the
    outputs, () if they are not known. `image_type` is the type of the images' numbers.
    `smallest` is how many images the smallest batch has, and what to change if these are too few,
    where the batches are the user's own.
    """

    train: Loader
    validation: Loader | None
    description: str
    image_shape: tuple[int, ...]
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    image_type: torch.dtype = torch.float32
    smallest: tuple[int, str] | None = None

    @property
    def trained_on(self) -> TrainedOn:
        """What checkpoints say about the data."""
        channels, height, width = self.image_shape
        return TrainedOn((channels, height, width), self.preprocessing, self.class_names)


def open_datasets(
    config: TrainConfig, device: torch.device, processes: int = 1, *, grey: bool = False
) -> DataSets:
    """The data sets that `config` names.

    Args:
        config: dataset, data, validation, and how the images are prepared.
        device: of the network.
        processes: of this machine, which share its cores.
        grey: the network takes one channel.

    Raises:
        UsageError: there is no such data, a class is empty, or the number of classes is not the
            network's.
        StrzooError, IntegrityError: something cannot be read.
    """
    opened = {"digits": _open_digits, "cifar10": _open_cifar, "cifar100": _open_cifar}.get(
        config.dataset
    )
    if opened is not None:
        return opened(config, device, grey)
    return _open_folder(config, device, processes, grey)


def image_shape(config: TrainConfig, *, grey: bool = False) -> tuple[int, int, int]:
    """Channels, height and width of the images that `config` names; no data is looked at."""
    small = {"digits": 8, "cifar10": 32, "cifar100": 32}
    steps = _preprocessing(config, IMAGENET, grey)
    side = small.get(config.dataset) or steps.crop
    channels = steps.channels
    if config.dataset == "digits":
        channels = 1 if grey else 3
    return channels, side, side


def _preprocessing(config: TrainConfig, usual: Preprocessing, grey: bool) -> Preprocessing:
    """As `config` has it, for images of one channel if `grey`."""
    steps = config.preprocessing(usual)
    return fit_channels(steps, 1) if grey else steps


def _open_digits(config: TrainConfig, device: torch.device, grey: bool) -> DataSets:
    _check_classes(config, 10)
    loaders = []
    for split in ("train", "test"):
        data = load_digits(split)
        images = data.images[:, :1] if grey else data.images
        loaders.append(MemoryLoader(images, data.labels, config, device))
    train, held_out = loaders
    return DataSets(
        train,
        held_out,
        f"{len(train)} digits, {len(held_out)} held out",
        tuple(images.shape[1:]),
        class_names=tuple("0123456789"),
        image_type=images.dtype,
    )


def _open_cifar(config: TrainConfig, device: torch.device, grey: bool) -> DataSets:
    classes = int(config.dataset.removeprefix("cifar"))
    _check_classes(config, classes)
    path = user_path(_need_data(config))
    if not is_cifar(path):
        raise UsageError(
            f"{path} is not CIFAR-{classes}: expected cifar-{classes}-python.tar.gz, the binary "
            "one, or an unpacked one"
        )
    usual = replace(SMALL, mean=CIFAR_MEAN, std=CIFAR_STD)
    preprocessing = _preprocessing(config, usual, grey)
    preprocessing = replace(preprocessing, resize=32, crop=32)  # they are taken as they are
    finish = partial(
        _normalise_planes, preprocessing=preprocessing, channels_last=config.channels_last
    )
    loaders = []
    for split in ("train", "test"):
        samples = read_cifar(path, split)
        if len(samples.class_names) != classes:
            raise UsageError(
                f"{path} is CIFAR-{len(samples.class_names)}; use dataset=cifar"
                f"{len(samples.class_names)} or another folder"
            )
        assert isinstance(samples.source, ArraySource)
        pixels = torch.from_numpy(samples.source.pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(samples.labels[:, 0])
        loaders.append(MemoryLoader(pixels, labels, config, device, finish))
    return DataSets(
        loaders[0],
        loaders[1],
        f"{samples.layout.split(',')[0]} in {path}",
        (preprocessing.channels, 32, 32),
        preprocessing,
        samples.class_names,
    )


def _normalise_planes(
    images: Tensor, *, preprocessing: Preprocessing, channels_last: bool
) -> Tensor:
    """uint8 [B, 3, H, W] as `normalise` gives them."""
    return normalise(images.permute(0, 2, 3, 1), preprocessing, channels_last=channels_last)


def _open_folder(config: TrainConfig, device: torch.device, processes: int, grey: bool) -> DataSets:
    data = _need_data(config)
    found = find_training_samples(data, config.num_classes)
    preprocessing = _preprocessing(config, IMAGENET, grey)
    train = FileLoader(found, preprocessing, config, device, processes)
    names = _class_names(found, config.num_classes)
    shape = (preprocessing.channels, preprocessing.crop, preprocessing.crop)
    if config.validation is None and not has_validation(data):
        parts = split_by_class(
            found.labels[:, 0], config.validation_share, config.seed, found.class_names
        )
        kept, held = (PartLoader(train, part) for part in parts)
        return DataSets(
            kept, held if len(held) else None,
            f"{len(kept):,} images in {found.location}, {len(held):,} more held out",
            shape, preprocessing, names,
        )  # fmt: skip
    held_out = find_samples(
        config.validation or data, config.num_classes, class_names=found.class_names
    )
    if not held_out.imagenet and held_out.class_names != found.class_names:
        odd = sorted(set(held_out.class_names) ^ set(found.class_names))
        raise UsageError(
            f"{held_out.location} and {found.location} have different classes: {', '.join(odd[:3])}"
        )
    where = held_out.location
    if held_out.subset is not None and held_out.class_names:
        where += f" of {len(held_out.subset)} of {config.num_classes} classes"
    return DataSets(
        train, FileLoader(held_out, preprocessing, config, device, processes),
        f"{len(found):,} images in {found.location}, {len(held_out):,} in {where}",
        shape, preprocessing, names,
    )  # fmt: skip


def _class_names(samples: Samples, num_classes: int) -> tuple[str, ...]:
    """Names of the network's outputs; () if the folders name only some of them."""
    names = samples.class_names
    return names if len(names) == num_classes else ()


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
