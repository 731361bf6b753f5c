"""CIFAR-10 and CIFAR-100 as they are published: the python and the binary version, packed or not.

The python version is a pickle, which could run any code. It is read by a machine of its own that
knows the instructions of the published files and builds flat uint8 arrays and plain values alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from strzoo.borders import read_file, reading
from strzoo.data.array_pickle import load_arrays
from strzoo.data.samples import Samples, single_labels
from strzoo.data.trees import read_member
from strzoo.errors import IntegrityError
from strzoo.settings import Limits

_ARCHIVES = (
    "cifar-10-python.tar.gz",
    "cifar-10-binary.tar.gz",
    "cifar-100-python.tar.gz",
    "cifar-100-binary.tar.gz",
)
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
_PIXELS = 3 * 32 * 32
# Test file -> (classes, label bytes in front of each image of the binary version; 0: a pickle).
_KINDS = {
    ("test_batch", "batches.meta"): (10, 0),
    ("test_batch.bin", "batches.meta.txt"): (10, 1),
    ("test", "meta"): (100, 0),
    ("test.bin", "fine_label_names.txt"): (100, 2),
}

_Content = Callable[[str, Limits], bytes]  # a file of the set by its name


class ArraySource:
    """Images that are pixels already: uint8 [N, H, W, 3]."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, index: int) -> np.ndarray:
        image: np.ndarray = self.pixels[index]
        return image


def is_cifar(path: Path) -> bool:
    """Whether `path` is a CIFAR archive, its unpacked folder, or the folder of either."""
    return _locate(path) is not None


def read_cifar(path: Path, split: str = "test", *, limits: Limits | None = None) -> Samples:
    """The 10,000 test images, or the 50,000 of the training set, with their (fine) labels.

    Args:
        path: for which `is_cifar` is true.
        split: "test" or "train".
        limits: of what is read; by default those of the environment.

    Raises:
        StrzooError, IntegrityError: a file cannot be read, or is not what its name says.
    """
    located = _locate(path)
    assert located is not None
    content, (test, meta), where = located
    limits = limits or Limits.from_env()
    classes, label_bytes = _KINDS[test, meta]
    files = [test] if split == "test" else _training_files(test)
    parts: list[tuple[np.ndarray, list[int]]] = []
    for file in files:
        bytes_ = content(file, limits)
        with reading(f"{where}/{file}", "a CIFAR file"):
            if label_bytes:
                parts.append(_from_binary(bytes_, label_bytes))
            else:
                parts.append(_from_pickle(bytes_, classes, limits))
    pixels = np.concatenate([part for part, _ in parts])
    labels = [label for _, part in parts for label in part]
    bytes_ = content(meta, limits)
    with reading(f"{where}/{meta}", "a CIFAR file"):
        names = _read_names(bytes_, classes, limits) if label_bytes == 0 else _split(bytes_)
    if len(labels) != len(pixels) or not labels or max(labels) >= classes or len(names) != classes:
        raise IntegrityError(f"{where}: images, labels and class names do not fit together")
    version = "binary" if label_bytes else "python"
    return Samples(
        f"CIFAR-{classes} ({version} version), {'test' if split == 'test' else 'training'} set",
        str(where),
        ArraySource(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        tuple(
            f"{file}[{i}]"
            for file, (_, part) in zip(files, parts, strict=True)
            for i in range(len(part))
        ),
        single_labels(labels),
        class_names=tuple(names),
        small=True,
    )


def _training_files(test: str) -> list[str]:
    """The training set's files beside the test set's."""
    if test.startswith("test_batch"):
        return [f"data_batch_{i}{test.removeprefix('test_batch')}" for i in range(1, 6)]
    return [test.replace("test", "train")]


def _locate(path: Path) -> tuple[_Content, tuple[str, str], Path] | None:
    """How to read a file of the set by name, which of `_KINDS` it is, and where it is."""
    if path.is_file():
        if path.name not in _ARCHIVES:
            return None
        kind = (100 if "100" in path.name else 10, "binary" in path.name)
        pair = next(p for p, (n, b) in _KINDS.items() if (n, b > 0) == kind)
        return lambda name, limits: read_member(path, name, limits), pair, path
    for pair in _KINDS:
        if all((path / name).is_file() for name in pair):
            return lambda name, limits: read_file(path / name, limits), pair, path
    for inner in (*_FOLDERS, *_ARCHIVES):
        if (path / inner).exists() and (found := _locate(path / inner)):
            return found
    return None


def _from_binary(content: bytes, label_bytes: int) -> tuple[np.ndarray, list[int]]:
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].tolist()


def _from_pickle(content: bytes, classes: int, limits: Limits) -> tuple[np.ndarray, list[int]]:
    document = load_arrays(content, limits)
    pixels, labels = document["data"], document["labels" if classes == 10 else "fine_labels"]
    if not isinstance(pixels, np.ndarray):
        raise ValueError("its data is no array")
    if not isinstance(labels, list) or not all(type(v) is int and v >= 0 for v in labels):
        raise ValueError("its labels are no list of class numbers")
    return pixels.reshape(-1, _PIXELS), labels


def _read_names(content: bytes, classes: int, limits: Limits) -> list[str]:
    key = "label_names" if classes == 10 else "fine_label_names"
    return [v.decode("ascii") if isinstance(v, bytes) else str(v)
            for v in load_arrays(content, limits)[key]]  # fmt: skip


def _split(content: bytes) -> list[str]:
    return content.decode("ascii").split()
