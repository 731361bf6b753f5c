"""find_samples: recognise how a data set lies on disk and list its images with their labels.

What is recognised is named in `Samples.layout`; what is not ends in an error that shows what was
found and what is accepted (docs/evaluation.md has the list).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from strzoo.borders import check_regular
from strzoo.data import cifar, parquet, webdataset
from strzoo.data.class_order import find_order, order_folders
from strzoo.data.imagenet_classes import COUNT, is_wnid
from strzoo.data.labels import (
    ACCEPTED,
    REAL,
    REAL_LABELS,
    LabelFile,
    find_label_file,
    read_label_file,
    read_real,
)
from strzoo.data.samples import NO_LABEL, Samples, Source, label_sets, single_labels
from strzoo.data.splits import canonical_split, choose_split, find_split, list_shards
from strzoo.data.trees import FolderTree, TarTree, Tree, TreeSource, is_junk
from strzoo.errors import StrzooError, UsageError
from strzoo.settings import Limits, user_path

# Where the folders of the splits are, below a data set's root.
SPLIT_BASES = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "")
_BEST_FIRST = ("val", "validation", "valid", "dev", "test")
_MOST_SPLITS = 8  # a folder of more folders holds classes
_VAL_TAR = "ILSVRC2012_img_val.tar"
_ACCEPTED = (
    "accepted are class folders by wnid or by the model's own classes, numeric folders, a flat "
    f"folder or {_VAL_TAR} with {ACCEPTED} beside it, Hugging Face parquet and WebDataset shards, "
    "CIFAR files"
)


def find_samples(
    data: str | os.PathLike[str],
    num_classes: int,
    *,
    class_names: Sequence[str] = (),
    labels: str | os.PathLike[str] | None = None,
    real: str | os.PathLike[str] | None = None,
    split: str | None = None,
    limits: Limits | None = None,
) -> Samples:
    """The labelled images in `data`, in a fixed order.

    Args:
        data: a folder, a plain tar archive or a parquet file.
        num_classes: outputs of the network. ImageNet labels need 1000; another number means the
            folders are the network's own classes, in name order.
        class_names: of the outputs, if they are known; folders of these names are these classes,
            whether all of them are there or not.
        labels: the label file of a flat folder; by default it is looked for in and beside it.
        real: a ReaL file, whose labels replace the data set's. Images without a ReaL label are
            left out, as in its paper.
        split: which part of the data; by default the validation, else the test split. Training
            images are only evaluated if they are named here, or are all that `data` names.
        limits: of what is read; by default those of the environment.

    Raises:
        UsageError: nothing is there, the layout or the split is not recognised, or the labels do
            not fit the network.
        StrzooError, IntegrityError: something cannot be read.
    """
    path = user_path(data)
    limits = limits or Limits.from_env()
    if not path.exists():
        raise UsageError(f"{path} does not exist; --data is a folder, a tar or a parquet file")
    place = user_path(labels) if labels else None
    names = tuple(class_names) if len(class_names) == num_classes else ()
    samples = _recognise(path, num_classes, names, place, real is not None, split, limits)
    if split is None and find_split(Path(samples.location).name) == "train":
        note = f"by its name {samples.location} holds training images"
        samples = replace(samples, notes=(*samples.notes, note))
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


def _recognise(
    path: Path,
    num_classes: int,
    names: Sequence[str],
    labels: Path | None,
    real: bool,
    split: str | None,
    limits: Limits,
) -> Samples:
    if not path.is_dir():
        check_regular(path.stat().st_mode, path)
        return _from_file(path, num_classes, names, labels, real, split, limits)
    if cifar.is_cifar(path):
        return _from_cifar(path, split, limits)
    if shards := list_shards(path, ".parquet"):
        found, files = choose_split(shards, split, path)
        return parquet.read_shards(
            [path / f for f in files], num_classes, split=found, limits=limits
        )
    folder = _find_folder(path, split)
    if folder == path and (path / _VAL_TAR).is_file():
        return _from_tree(TarTree(path / _VAL_TAR, limits), [path, path.parent], num_classes,
                          names, labels, real)  # fmt: skip
    tars = [] if folder != path else list_shards(path, ".tar")
    if tars and webdataset.is_webdataset(path / tars[0], limits):
        found, files = choose_split(tars, split, path)
        return webdataset.read_webdataset([path / f for f in files], split=found, limits=limits)
    places = [folder, *list(folder.parents)[: len(folder.parts) - len(path.parts)], path.parent]
    return _from_tree(FolderTree(folder, limits), places, num_classes, names, labels, real)


def _from_file(
    path: Path,
    num_classes: int,
    names: Sequence[str],
    labels: Path | None,
    real: bool,
    split: str | None,
    limits: Limits,
) -> Samples:
    if cifar.is_cifar(path):
        return _from_cifar(path, split, limits)
    if path.suffix.lower() == ".zip":
        raise UsageError(f"{path} is a zip archive: unpack it and give the folder")
    if split is not None:
        choose_split([path.name], split, path.parent)
    if path.suffix.lower() == ".parquet":
        return parquet.read_shards([path], num_classes, limits=limits)
    if webdataset.is_webdataset(path, limits):
        return webdataset.read_webdataset([path], limits=limits)
    return _from_tree(TarTree(path, limits), [path.parent], num_classes, names, labels, real)


def _from_cifar(path: Path, split: str | None, limits: Limits) -> Samples:
    chosen = canonical_split(split) if split else "test"
    if chosen not in ("train", "test"):
        raise UsageError(f"{path} is CIFAR, whose splits are test and train, not {split!r}")
    return cifar.read_cifar(path, chosen, limits=limits)


def _find_folder(path: Path, split: str | None) -> Path:
    """The folder of the split to evaluate on; `path` itself if it has no folders of splits.

    Raises:
        UsageError: there is no such split, or only the training split is known.
    """
    for base in SPLIT_BASES:
        root = path / base
        if not root.is_dir():
            continue
        inner = sorted(
            e.name for e in os.scandir(root) if not is_junk(e.name) and os.path.isdir(e.path)
        )
        if split is not None:
            wanted = {split, canonical_split(split)}
            if named := [n for n in inner if n in wanted or canonical_split(n) in wanted]:
                return root / named[0]
            continue
        if known := [n for n in inner if canonical_split(n) in ("validation", "test")]:
            return root / min(known, key=_rank_folder)
        if len(inner) > _MOST_SPLITS:
            continue
        training = [n for n in inner if canonical_split(n) == "train" and _has_folders(root / n)]
        if training:
            raise UsageError(
                f"{path} has training images ({training[0]}) and none that are known to be for "
                f"evaluation (folders: {_few(inner)}): choose a folder with --split"
            )
    if split is not None:
        raise UsageError(f"{path} has no folder or shards of the split {split!r}")
    return path


def _rank_folder(name: str) -> tuple[bool, int, str]:
    """Validation before test, the usual names before others."""
    usual = _BEST_FIRST.index(name) if name in _BEST_FIRST else len(_BEST_FIRST)
    return canonical_split(name) != "validation", usual, name


def _has_folders(folder: Path) -> bool:
    """Whether classes lie in it; a class that is called "train" holds images itself."""
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not is_junk(entry.name) for entry in entries)


def _from_tree(
    tree: Tree,
    places: Sequence[Path],
    num_classes: int,
    names: Sequence[str],
    labels: Path | None,
    real: bool,
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
    if depth == 0 and isinstance(tree, FolderTree) and len(tops) < len(tree.folders) == num_classes:
        tops = list(tree.folders)  # classes without images are classes
    flat = _one_flat(tops, num_classes) and not set(tops) <= set(names)
    if labels is None and tops and len(inside) == len(images) and not flat:
        return samples_from_folders(tree, tops, depth, num_classes, archive, names)
    return _from_flat(tree, places, labels, real, archive, num_classes)


def _one_flat(tops: Sequence[str], num_classes: int) -> bool:
    """A single folder that is no class: a flat set inside one folder."""
    return len(tops) == 1 and num_classes > 1 and not is_wnid(tops[0]) and not tops[0].isdigit()


def samples_from_folders(
    tree: Tree,
    tops: Sequence[str],
    depth: int,
    num_classes: int,
    archive: str = "",
    class_names: Sequence[str] = (),
) -> Samples:
    """The images in class folders.

    Args:
        tree: what lies there.
        tops: names of the class folders.
        depth: of these folders below the tree's root.
        num_classes: outputs of the network.
        archive: what holds the tree, to be added to the layout's name.
        class_names: of the outputs, if they are known.

    Raises:
        UsageError: the folders are not the network's classes.
    """
    try:
        order = order_folders(tops, num_classes, tree.location, class_names)
    except UsageError as error:
        raise UsageError(f"{error}; {_ACCEPTED}") from error
    labels = [order.index[name.split("/")[depth]] for name in tree.images]
    present = tuple(sorted(set(labels)))
    return Samples(
        order.layout + archive,
        tree.location,
        TreeSource(tree, tree.images),
        tree.images,
        single_labels(labels),
        class_names=order.names,
        subset=present if len(present) < num_classes else None,
        imagenet=order.imagenet,
        notes=(*tree.notes, *order.notes),
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
            return _flat(tree, archive, rows)
        if beside is None:
            raise UsageError(
                f"{tree.location} is not recognised: found {_show(tree)} without labels for "
                f"{num_classes} classes; {_ACCEPTED}"
            )
        path = beside
    if not path.exists():
        raise UsageError(f"{path} does not exist; a label file is {ACCEPTED}")
    file = read_label_file(path, images, find_order([*places, path.parent], num_classes),
                           num_classes)  # fmt: skip
    return _with_labels(_flat(tree, archive, np.empty((0, 1), dtype=np.int64)), file, path)


def _flat(tree: Tree, archive: str, labels: np.ndarray) -> Samples:
    """The images of a flat folder, whose labels come next."""
    source = TreeSource(tree, tree.images)
    return Samples(
        f"flat folder{archive}", tree.location, source, tree.images, labels, notes=tree.notes
    )


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
    notes = (f"{left_out} images have no ReaL label and are left out",) if left_out else ()
    order = file.order
    return Samples(
        f"{samples.layout}, {file.description}",
        samples.location,
        samples.source if not left_out else _Chosen(samples.source, kept),
        tuple(samples.names[i] for i in kept),
        label_sets(sets),
        class_names=order.names,
        subset=samples.subset,
        imagenet=order.imagenet,
        real=file.description == REAL_LABELS,
        notes=(*samples.notes, *order.notes, *notes),
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
