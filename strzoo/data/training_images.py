"""The images to train on: a folder of class folders, alone or beside one for validation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strzoo.data.class_order import TRAINING
from strzoo.data.layouts import SPLIT_BASES, samples_from_folders
from strzoo.data.samples import Samples
from strzoo.data.splits import canonical_split
from strzoo.data.trees import FolderTree, is_image, is_junk
from strzoo.errors import UsageError
from strzoo.settings import Limits, user_path


def find_training_samples(
    data: str | os.PathLike[str], num_classes: int, limits: Limits | None = None
) -> Samples:
    """The training images below `data`, one folder per class, in a fixed order.

    Args:
        data: a folder with `train` in it (or ILSVRC/Data/CLS-LOC/train), or the folder of the
            class folders.
        num_classes: outputs of the network. Folders become labels as in `find_samples`.
        limits: of what is read; by default those of the environment.

    Raises:
        UsageError: there is no such folder, a class has no images, or there are not as many
            classes as the network has outputs.
    """
    tree, classes = _list_classes(data, limits)
    folder = tree.location
    if len(classes) != num_classes:
        raise UsageError(
            f"{folder} has {len(classes)} class folders, the model has {num_classes} classes; set "
            f"num_classes={len(classes)} or give the right folder"
        )
    return samples_from_folders(tree, classes, 0, num_classes)


def list_training_classes(
    data: str | os.PathLike[str], limits: Limits | None = None
) -> Sequence[str]:
    """The names of the class folders of the training images, as `find_training_samples` finds
    them.

    Args:
        data: as there.
        limits: of what is read; by default those of the environment.

    Raises:
        UsageError: there is no such folder, or a class has no images.
    """
    return _list_classes(data, limits)[1]


def _list_classes(
    data: str | os.PathLike[str], limits: Limits | None
) -> tuple[FolderTree, Sequence[str]]:
    """The training images below `data`, which may be the folder of the classes itself, and the
    names of the classes; none of them is empty."""
    path = user_path(data)
    folder = next((path / inner for inner in TRAINING if (path / inner).is_dir()), None)
    if folder is None and _holds_classes(path):
        folder = path
    if folder is None:
        raise UsageError(_why_none(path))
    tree = FolderTree(folder, limits)
    classes = tree.folders
    filled = {name.split("/")[0] for name in tree.images}
    if loose := sorted(filled - set(classes)):
        raise UsageError(
            f"{folder} has images outside class folders ({', '.join(loose[:3])}); sort them in"
        )
    if empty := [name for name in classes if name not in filled]:
        raise UsageError(
            f"{folder / empty[0]} has no images ({len(empty)} of {len(classes)} class folders are "
            "empty): fill it, or remove it and set num_classes"
        )
    if len(classes) == 1:
        raise UsageError(_only_one(folder, classes[0]))
    return tree, classes


def _why_none(path: Path) -> str:
    """Why a folder holds no classes to train on, and what is expected."""
    expected = f"expected {path / 'train'} with a folder per class, or a folder per class"
    if not path.exists():
        return f"{path} does not exist; {expected}"
    inner = _folders(path)
    filled = [folder for folder in inner if any(map(is_image, _list(folder)))]
    if len(filled) == 1 and not _is_split(filled[0].name):
        return _only_one(path, filled[0].name)
    for folder in inner:
        for deeper in _folders(folder):
            if not filled and any(map(is_image, _list(deeper))):
                return (
                    f"the images in {path} lie one folder deeper than those of classes, as in "
                    f"{deeper}: give {folder} if its folders are the classes, or move the images up"
                )
    if any(map(is_image, _list(path))):
        return f"{path} has images outside class folders; {expected}"
    return f"{path} has no training images: {expected}"


def _only_one(folder: Path, name: str) -> str:
    return (
        f"{folder} has only one class, {name}, and training tells classes apart: put a folder of "
        "images for each other class beside it"
    )


def _holds_classes(path: Path) -> bool:
    """Whether a folder holds folders of images, one for each class, and no folders of splits."""
    if not path.is_dir():
        return False
    inner = _folders(path)
    if len(inner) < 2 or any(_is_split(folder.name) for folder in inner):
        return False
    return any(any(map(is_image, _list(folder))) for folder in inner)


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, by name; none if it is no folder."""
    inner = [path / name for name in sorted(_list(path)) if not is_junk(name)]
    return [folder for folder in inner if folder.is_dir()]


def has_validation(data: str | os.PathLike[str]) -> bool:
    """Whether a folder with training images holds images for evaluation, too.

    Args:
        data: as `find_training_samples` takes it.
    """
    path = user_path(data)
    if path.is_dir() and _holds_classes(path):
        return False
    inner = [
        e.name for base in SPLIT_BASES if (path / base).is_dir() for e in os.scandir(path / base)
    ]
    return any(canonical_split(name) in ("validation", "test") for name in inner)


def _list(folder: Path) -> list[str]:
    """Names in a folder; none if it cannot be listed, which the reader of its images says."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_split(name: str) -> bool:
    return canonical_split(name) in ("train", "validation", "test")


def split_by_class(
    labels: np.ndarray, share: float, seed: int, class_names: Sequence[str] = ()
) -> tuple[Sequence[int], Sequence[int]]:
    """Sample numbers to train on and to hold out: of each class the same share, at random.

    Args:
        labels: int64 [N].
        share: of each class that is held out, rounded, and at least one image if it is not 0.
        seed: of the choice.
        class_names: of the labels, for messages.

    Raises:
        UsageError: a class has too few images to hold any out.
    """
    held: list[int] = []
    if share:
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            count = max(1, round(share * len(members)))
            if count >= len(members):
                name = class_names[label] if label < len(class_names) else label
                images = "image" if len(members) == 1 else "images"
                raise UsageError(
                    f"class {name} has {len(members)} {images}, too few to hold "
                    f"{100 * share:g} % out; give validation=FOLDER, or validation_share=0"
                )
            random = np.random.default_rng((seed, int(label)))
            held += random.choice(members, count, replace=False).tolist()
    held.sort()
    return np.setdiff1d(np.arange(len(labels)), held).tolist(), held
