"""What `tradeoff` calibrates, fine-tunes and evaluates on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strzoo.data.calibration import Images
from strzoo.data.digits import load_digits
from strzoo.data.imageset import ImageSet
from strzoo.data.training_images import find_training_samples, has_validation, split_by_class
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.evaluate import Batches
from strzoo.files import write_error
from strzoo.hub.source import Source
from strzoo.settings import user_path

_SHARE = 0.2  # of each class, held out of a folder without validation images


@dataclass(frozen=True)
class TradeoffData:
    """Images to calibrate on, and labelled ones to evaluate on.

    Args:
        data: to calibrate on.
        validation: as `evaluate` takes it.
        training: the keys `dataset` and `data` of a training; data is None for images in memory.
        folder: the key `validation` of a training, if it needs one.
        notes: what was held out.
    """

    data: Images
    validation: str | os.PathLike[str] | ImageSet | Batches
    training: tuple[str, str | None]
    folder: str | None = None
    notes: tuple[str, ...] = ()


def open_data(
    source: Source,
    data: Images,
    validation: str | os.PathLike[str] | ImageSet | Batches | None,
    place: Path,
) -> TradeoffData:
    """The images that the arguments mean.

    Args:
        source: the network, whose number of classes a folder must have.
        data: a folder, "digits", an `ImageSet` or a tensor.
        validation: None looks for it in `data`.
        place: a folder to make, for a folder of classes that is divided.

    Raises:
        UsageError: there are no validation images.
    """
    if isinstance(validation, Iterator):  # it is gone through several times
        validation = list(validation)
    if isinstance(data, str) and data == "digits":
        held = load_digits("test") if validation is None else validation
        return TradeoffData(data, held, ("digits", ""))
    if not isinstance(data, str | os.PathLike):
        if validation is None:
            raise UsageError("images in memory need validation images, too: give validation=")
        return TradeoffData(data, validation, ("folder", None))
    text = os.fspath(data)
    if validation is not None:
        own = os.fspath(validation) if isinstance(validation, str | os.PathLike) else None
        return TradeoffData(data, validation, ("folder", text), own)
    if has_validation(text):
        return TradeoffData(data, text, ("folder", text))
    if not user_path(text).is_dir():
        raise UsageError(f"{text} is not a folder of images; give validation= images as well")
    return _divide(source, user_path(text).resolve(), place)


def _divide(source: Source, folder: Path, place: Path) -> TradeoffData:
    """A folder of class folders as one with `train` and `val`, which hold links."""
    classes = _count_classes(source)
    found = find_training_samples(folder, classes)
    kept, held = split_by_class(found.labels[:, 0], _SHARE, seed=0, class_names=found.class_names)
    root = Path(found.location)
    for split, chosen in (("train", kept), ("val", held)):
        for index in chosen:
            name = Path(found.names[index])
            target = place / split / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(root / name)
            except OSError as error:
                raise write_error(target, error) from error
    note = f"{folder} has no validation images: {len(held):,} of {len(found):,} are held out"
    return TradeoffData(place, place, ("folder", str(place)), None, (note,))


def _count_classes(source: Source) -> int:
    try:
        found: Any = source.checkpoint.spec.num_classes
    except StrzooError as error:
        raise UsageError(
            f"{source.name} does not say how many classes it has; give validation images"
        ) from error
    return int(found)
