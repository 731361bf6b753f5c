"""find_samples: recognise how a data set lies on disk and list its images with their labels.

What is recognised is named in `Samples.layout`; what is not ends in an error that shows what was
found and what is accepted (docs/evaluation.md has the list).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strzoo.data import cifar, parquet
from strzoo.data.imagenet_classes import COUNT, index_by_wnid, is_wnid, list_classes
from strzoo.data.labels import (
    ACCEPTED,
    REAL,
    LabelFile,
    find_label_file,
    read_label_file,
    read_real,
)
from strzoo.data.samples import NO_LABEL, Samples, Source, label_sets, single_labels
from strzoo.data.trees import FolderTree, TarTree, Tree, TreeSource
from strzoo.errors import StrzooError, UsageError

# Folders that hold the images to evaluate on inside a data set's root, the best first.
_INNER = ("ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "val", "validation", "valid", "test")
_TRAINING = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "train", "training")
_VAL_TAR = "ILSVRC2012_img_val.tar"
_ACCEPTED = (
    "accepted are class folders by wnid or by the model's own classes, numeric folders, a flat "
    f"folder or {_VAL_TAR} with {ACCEPTED} beside it, Hugging Face parquet shards, CIFAR files"
)


def find_samples(
    data: str | os.PathLike[str],
    num_classes: int,
    *,
    labels: str | os.PathLike[str] | None = None,
    real: str | os.PathLike[str] | None = None,
) -> Samples:
    """The labelled images in `data`, in a fixed order.

    Args:
        data: a folder, a plain tar archive or a parquet file.
        num_classes: outputs of the network. ImageNet labels need 1000; another number means the
            folders are the network's own classes, in name order.
        labels: the label file of a flat folder; by default it is looked for in and beside it.
        real: a ReaL file, whose labels replace the data set's. Images without a ReaL label are
            left out, as in its paper.

    Raises:
        UsageError: nothing is there, the layout is not recognised, or the labels do not fit the
            network.
        StrzooError, IntegrityError: something cannot be read.
    """
    path = Path(data).expanduser()
    if not path.exists():
        raise UsageError(f"{path} does not exist; --data is a folder, a tar or a parquet file")
    samples = _recognise(path, num_classes, Path(labels) if labels else None, real is not None)
    if real is not None:
        if num_classes != COUNT:
            raise UsageError(f"ReaL labels are for {COUNT} classes, the model has {num_classes}")
        samples = _with_labels(samples, read_real(Path(real), samples.names), Path(real))
    if len(samples) == 0:
        raise UsageError(f"{path} has no labelled images; {_ACCEPTED}")
    largest = int(samples.labels.max())
    if largest >= num_classes or (samples.imagenet and num_classes != COUNT):
        kind = "ImageNet labels" if samples.imagenet else f"labels up to {largest}"
        raise UsageError(f"{path} has {kind}, but the model has {num_classes} classes")
    if not samples.imagenet and len(samples.class_names) not in (0, num_classes):
        raise UsageError(
            f"{path} ({samples.layout}) has {len(samples.class_names)} classes, the model has "
            f"{num_classes}"
        )
    return samples


def find_training_samples(data: str | os.PathLike[str], num_classes: int) -> Samples:
    """The training images below `data`, one folder per class, in a fixed order.

    Args:
        data: a folder with `train` in it (or ILSVRC/Data/CLS-LOC/train).
        num_classes: outputs of the network. Folders become labels as in `find_samples`.

    Raises:
        UsageError: there is no such folder, a class has no images, or there are not as many
            classes as the network has outputs.
    """
    path = Path(data).expanduser()
    folder = next((path / inner for inner in _TRAINING if (path / inner).is_dir()), None)
    if folder is None:
        raise UsageError(
            f"{path} has no training images: expected {path / 'train'} with a folder per class"
        )
    tree = FolderTree(folder)
    classes = sorted(e.name for e in folder.iterdir() if e.is_dir() and e.name[0] != ".")
    filled = {name.split("/")[0] for name in tree.images}
    if loose := sorted(filled - set(classes)):
        raise UsageError(f"{folder} has images outside class folders ({_few(loose)}); sort them in")
    if empty := [name for name in classes if name not in filled]:
        raise UsageError(
            f"{folder / empty[0]} has no images ({len(empty)} of {len(classes)} class folders are "
            "empty): fill it, or remove it and set num_classes"
        )
    if len(classes) != num_classes:
        raise UsageError(
            f"{folder} has {len(classes)} class folders, the model has {num_classes} classes; set "
            f"num_classes={len(classes)} or give the right folder"
        )
    return _from_folders(tree, classes, 0, num_classes, "")


def _recognise(path: Path, num_classes: int, labels: Path | None, real: bool) -> Samples:
    if path.is_file():
        if path.suffix == ".parquet":
            return parquet.read_shards([path])
        if cifar.is_cifar(path):
            return cifar.read_cifar(path)
        return _from_tree(TarTree(path), [path.parent], num_classes, labels, real)
    if cifar.is_cifar(path):
        return cifar.read_cifar(path)
    if shards := parquet.find_shards(path):
        return parquet.read_shards(shards)
    folder = next((path / inner for inner in _INNER if (path / inner).is_dir()), path)
    places = [folder, *list(folder.parents)[: len(folder.parts) - len(path.parts)], path.parent]
    if folder == path and (path / _VAL_TAR).is_file():
        return _from_tree(TarTree(path / _VAL_TAR), places, num_classes, labels, real)
    return _from_tree(FolderTree(folder), places, num_classes, labels, real)


def _from_tree(
    tree: Tree, places: Sequence[Path], num_classes: int, labels: Path | None, real: bool
) -> Samples:
    images = tree.images
    if not images:
        raise UsageError(f"{tree.location} has no images: found {_show(tree)}; {_ACCEPTED}")
    archive = " in a tar archive" if isinstance(tree, TarTree) else ""
    # An archive may wrap everything in one folder (val/n01440764/x.JPEG).
    depth = 0
    while len({name.split("/")[depth] for name in images}) == 1 and all(
        name.count("/") > depth + 1 for name in images
    ):
        depth += 1
    tops = sorted({name.split("/")[depth] for name in images if name.count("/") > depth})
    inside = [name for name in images if name.count("/") > depth]
    if labels is None and tops and len(inside) == len(images) and not _one_flat(tops, num_classes):
        return _from_folders(tree, tops, depth, num_classes, archive)
    return _from_flat(tree, places, labels, real, archive, num_classes)


def _one_flat(tops: Sequence[str], num_classes: int) -> bool:
    """A single folder that is no class: a flat set inside one folder."""
    return len(tops) == 1 and num_classes > 1 and not is_wnid(tops[0]) and not tops[0].isdigit()


def _from_folders(
    tree: Tree, tops: Sequence[str], depth: int, num_classes: int, archive: str
) -> Samples:
    wnids = all(is_wnid(top) for top in tops)
    numeric = all(top.isascii() and top.isdigit() for top in tops)
    imagenet, names = num_classes == COUNT and (wnids or numeric), tuple(tops)
    if imagenet and wnids:
        layout, table = "class folders by wnid", dict(index_by_wnid())
        if foreign := [top for top in tops if top not in table]:
            raise UsageError(
                f"{tree.location}: {len(foreign)} of {len(tops)} folders are not among the 1000 "
                f"ImageNet classes ({', '.join(foreign[:3])})"
            )
    elif numeric and max(int(top) for top in tops) < num_classes:
        layout, table = "numeric folders", {top: int(top) for top in tops}
        imagenet = num_classes == COUNT
    elif len(tops) == num_classes:
        layout, table = "folders of the model's own classes", {t: i for i, t in enumerate(tops)}
        imagenet = False
    else:
        raise UsageError(
            f"{tree.location} has {len(tops)} class folders ({_few(tops)}), the model has "
            f"{num_classes} classes, and the folders are neither wnids nor numbers below "
            f"{num_classes}: they cannot be matched; {_ACCEPTED}"
        )
    labels = [table[name.split("/")[depth]] for name in tree.images]
    present = tuple(sorted({table[top] for top in tops}))
    if imagenet:
        names = tuple(c.name for c in list_classes())
    elif len(tops) != num_classes:
        names = ()
    return Samples(
        layout + archive,
        tree.location,
        TreeSource(tree, tree.images),
        tree.images,
        single_labels(labels),
        class_names=names,
        subset=present if len(present) < num_classes else None,
        imagenet=imagenet,
    )


def _from_flat(
    tree: Tree,
    places: Sequence[Path],
    labels: Path | None,
    real: bool,
    archive: str,
    num_classes: int,
) -> Samples:
    images = tree.images
    path = labels or find_label_file(places)
    if path is None:
        beside = next((p / REAL for p in places if (p / REAL).is_file()), None)
        if real:  # its labels come next
            rows = np.full((len(images), 1), NO_LABEL, dtype=np.int64)
            found = Samples(
                f"flat folder{archive}", tree.location, TreeSource(tree, images), images, rows
            )
            return found
        if beside is None:
            raise UsageError(
                f"{tree.location} is not recognised: found {_show(tree)} without labels for "
                f"{num_classes} classes; {_ACCEPTED}"
            )
        path = beside
    if not path.is_file():
        raise UsageError(f"{path} does not exist; a label file is {ACCEPTED}")
    file = read_label_file(path, images)
    empty = Samples(
        f"flat folder{archive}",
        tree.location,
        TreeSource(tree, images),
        images,
        np.empty((0, 1), dtype=np.int64),
    )
    return _with_labels(empty, file, path)


def _with_labels(samples: Samples, file: LabelFile, path: Path) -> Samples:
    """`samples` with the labels of `file`; those it calls ambiguous (no label) are left out."""
    kept, sets = [], []
    for index, name in enumerate(samples.names):
        accepted = file.find(name)
        if accepted is None:
            raise StrzooError(f"{path} has no label for {name}")
        if accepted:
            kept.append(index)
            sets.append(accepted)
    left_out = len(samples) - len(kept)
    is_real = file.description == "ReaL labels"
    return Samples(
        f"{samples.layout}, {file.description}",
        samples.location,
        samples.source if not left_out else _Chosen(samples.source, kept),
        tuple(samples.names[i] for i in kept),
        label_sets(sets),
        class_names=tuple(c.name for c in list_classes()),
        subset=samples.subset,
        imagenet=True,
        real=is_real,
        notes=(f"{left_out} images have no ReaL label and are left out",) if left_out else (),
    )


class _Chosen:
    """Some samples of another source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, tuple(indices)

    def read(self, index: int) -> bytes | np.ndarray:
        return self._source.read(self._indices[index])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _show(tree: Tree) -> str:
    """What is there, in a few words."""
    if tree.images:
        return f"{len(tree.images)} images ({_few(tree.images)})"
    if isinstance(tree, FolderTree):
        entries = sorted(os.listdir(tree.location))
        return f"{len(entries)} entries ({_few(entries)})" if entries else "an empty folder"
    return "an archive without images"
