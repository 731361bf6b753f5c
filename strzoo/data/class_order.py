"""Which network output a class is, by the name that a folder or a label file gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from strzoo.borders import lines_of, read_text
from strzoo.data.imagenet_classes import (
    COUNT,
    index_by_devkit_id,
    index_by_wnid,
    is_wnid,
    list_classes,
)
from strzoo.data.trees import is_junk
from strzoo.errors import StrzooError, UsageError

# Where the training images of a set are, below its root.
TRAINING = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "train", "training")
CLASS_LISTS = ("wnids.txt", "wnid.txt", "classes.txt")  # Tiny ImageNet has the first


@dataclass(frozen=True)
class ClassOrder:
    """`index` gives the output of each class by its name; `names` are those of all outputs, or
    empty; `layout` says where the order comes from."""

    index: Mapping[str, int]
    names: tuple[str, ...]
    layout: str
    imagenet: bool = False
    notes: tuple[str, ...] = ()


def imagenet_order() -> ClassOrder:
    """The 1000 classes by wnid."""
    names = tuple(c.name for c in list_classes())
    return ClassOrder(index_by_wnid(), names, "class folders by wnid", imagenet=True)


def order_folders(
    folders: Sequence[str], num_classes: int, where: str, class_names: Sequence[str] = ()
) -> ClassOrder:
    """The order that class folders have under a network of `num_classes` outputs.

    Args:
        folders: their names, sorted.
        num_classes: outputs. Under 1000, folders of wnids or of numbers are ImageNet's classes.
        where: the data, for messages.
        class_names: of the outputs, if they are known: folders that all have such names are these
            classes.

    Raises:
        UsageError: the folders are not the network's classes, or numbers whose order is not plain.
    """
    if num_classes == COUNT and all(map(is_wnid, folders)):
        if foreign := [name for name in folders if name not in index_by_wnid()]:
            raise UsageError(
                f"{where}: {len(foreign)} of {len(folders)} folders are not among the 1000 "
                f"ImageNet classes ({', '.join(foreign[:3])})"
            )
        return imagenet_order()
    if class_names and all(class_names.count(name) == 1 for name in folders):
        return _order_by_name(folders, class_names)
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in folders):
        return _order_numbers(folders, num_classes, where)
    if len(folders) == num_classes:
        return ClassOrder(
            {name: i for i, name in enumerate(folders)},
            tuple(folders),
            "folders of the model's own classes",
            notes=_doubt(folders),
        )
    if class_names:
        odd = [name for name in folders if name not in class_names]
        raise UsageError(
            f"{where} has {len(folders)} class folders, and {_few(odd)} is none of the model's "
            f"{num_classes} classes ({_few(class_names)}): rename it as the class it is, or leave "
            "it out"
        )
    raise UsageError(
        f"{where} has {len(folders)} class folders ({_few(folders)}), the model has {num_classes} "
        f"classes, and the folders are neither wnids nor numbers below {num_classes}: they cannot "
        "be matched"
    )


def _order_by_name(folders: Sequence[str], class_names: Sequence[str]) -> ClassOrder:
    """Folders that have the names of the outputs, all or some."""
    missing = [name for name in class_names if name not in folders]
    note = f"there are no images of {len(missing)} of {len(class_names)} classes: {_few(missing)}"
    return ClassOrder(
        {name: i for i, name in enumerate(class_names)},
        tuple(class_names),
        "folders of the model's own classes",
        notes=(note,) if missing else (),
    )


def _doubt(folders: Sequence[str]) -> tuple[str, ...]:
    """A note where libraries disagree on the order of the folders: class_10 before class_2, or not.

    torchvision's ImageFolder sorts names as text, timm numbers in them by value.
    """
    parts = {name: re.split(r"([0-9]+)", name) for name in folders}  # each second one is digits
    natural = sorted(
        folders, key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(parts[name])]
    )
    for text, value in zip(folders, natural, strict=True):
        if text != value:
            return (f"the folders are taken in the order of their names as text, {text} before "
                    f"{value}, as torchvision has it; timm sorts them by number",)  # fmt: skip
    return ()


def _order_numbers(folders: Sequence[str], num_classes: int, where: str) -> ClassOrder:
    """Folders that are numbers: outputs from 0 on, the development kit's ids, or refused.

    Sorted as text, 10 comes before 2: that order is nobody's intention.
    """
    numbers = {name: int(name) for name in folders}
    values = set(numbers.values())
    if len(values) != len(folders):
        raise UsageError(f"{where}: two class folders are the same number ({_few(folders)})")
    names = tuple(c.name for c in list_classes()) if num_classes == COUNT else ()
    if max(values) < num_classes:
        notes: tuple[str, ...] = ()
        if num_classes == COUNT and 0 not in values:
            notes = (
                "the folders' numbers are taken for outputs from 0 to 999, not for the development "
                "kit's ids from 1 to 1000",
            )
        if len(folders) == num_classes != COUNT:
            names = tuple(sorted(folders, key=int))
        return ClassOrder(
            numbers, names, "numeric folders", imagenet=num_classes == COUNT, notes=notes
        )
    if num_classes == COUNT and values <= set(index_by_devkit_id()):
        table = index_by_devkit_id()
        return ClassOrder(
            {name: table[number] for name, number in numbers.items()},
            names,
            "numeric folders (the development kit's ids)",
            imagenet=True,
        )
    if len(folders) == num_classes and num_classes != COUNT:
        if sorted(folders, key=int) == list(folders):
            return ClassOrder(
                {name: i for i, name in enumerate(folders)},
                tuple(folders),
                "folders of the model's own classes",
            )
        raise UsageError(
            f"{where} has the class folders {min(values)} to {max(values)}: by number or as text "
            "(1, 10, 2, as torchvision's ImageFolder sorts)? Rename them with zeros in front (001)"
        )
    raise UsageError(
        f"{where} has {len(folders)} numeric folders from {min(values)} to {max(values)}, the "
        f"model has {num_classes} classes: they are neither outputs from 0 on nor, for {COUNT} "
        "classes, the development kit's ids from 1 on"
    )


def find_order(places: Sequence[Path], num_classes: int) -> ClassOrder | None:
    """The order of the classes that label files name, or None if nothing tells.

    ImageNet's for a network of 1000 classes; else that of the training folders of the same data
    set, as they are sorted for training; else that of its list of classes.

    Args:
        places: where the images and their label file may be, the nearest first.
    """
    roots = list(dict.fromkeys([*places, *(place.parent for place in places)]))
    for root in roots:
        for inner in TRAINING:
            classes = _list_folders(root / inner)
            if len(classes) == num_classes and not (
                num_classes == COUNT and set(classes) <= set(index_by_wnid())
            ):
                return order_folders(classes, num_classes, str(root / inner))
    if num_classes == COUNT:
        return imagenet_order()
    for root in roots:
        for name in CLASS_LISTS:
            if (root / name).is_file():
                classes = sorted(set(read_class_list(root / name)))
                if len(classes) == num_classes:
                    return ClassOrder(
                        {c: i for i, c in enumerate(classes)}, tuple(classes), f"classes of {name}"
                    )
    return None


def is_class_list(path: Path, words: Sequence[str]) -> bool:
    """Whether a file of single words lists the classes of a set, not the labels of its images."""
    return path.name in CLASS_LISTS and any(
        set(words) == set(_list_folders(root / inner))
        for root in (path.parent, path.parent.parent)
        for inner in TRAINING
    )


def read_class_list(path: Path) -> list[str]:
    """The first word of each line."""
    lines = lines_of(read_text(path, "a list of classes"))
    return [line.split()[0] for line in lines if line.strip()]


def _list_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    try:
        return sorted(e.name for e in folder.iterdir() if not is_junk(e.name) and e.is_dir())
    except OSError as error:
        raise StrzooError(f"cannot list {folder}: {error.strerror}") from error


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
