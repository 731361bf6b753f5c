"""CIFAR-10 and CIFAR-100 as they are published: the python and the binary version, packed or not.

The python version is a pickle; only numpy arrays and plain values are let through.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.data.samples import Samples, single_labels
from strzoo.errors import IntegrityError, StrzooError

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
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


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


def read_cifar(path: Path, split: str = "test") -> Samples:
    """The 10,000 test images, or the 50,000 of the training set, with their (fine) labels.

    Args:
        path: for which `is_cifar` is true.
        split: "test" or "train".

    Raises:
        StrzooError, IntegrityError: a file cannot be read, or is not what its name says.
    """
    located = _locate(path)
    assert located is not None
    content, (test, meta), where = located
    classes, label_bytes = _KINDS[test, meta]
    files = [test] if split == "test" else _training_files(test)
    parts: list[tuple[np.ndarray, list[int]]] = []
    try:
        for file in files:
            bytes_ = content(file)
            parts.append(
                _from_binary(bytes_, label_bytes) if label_bytes else _from_pickle(bytes_, classes)
            )
        file = meta
        pixels = np.concatenate([part for part, _ in parts])
        labels = [label for _, part in parts for label in part]
        if label_bytes == 0:
            key = "label_names" if classes == 10 else "fine_label_names"
            names = [_text(name) for name in _unpickle(content(meta))[key]]
        else:
            names = content(meta).decode("ascii").split()
    except (pickle.UnpicklingError, ValueError, KeyError, TypeError, EOFError, IndexError) as error:
        raise IntegrityError(f"{where}/{file} is not a CIFAR file ({error})") from error
    except (OSError, tarfile.TarError) as error:
        raise StrzooError(f"cannot read {where}: {error}") from error
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


def _locate(path: Path) -> tuple[Callable[[str], bytes], tuple[str, str], Path] | None:
    """How to read a file of the set by name, which of `_KINDS` it is, and where it is."""
    if path.is_file():
        if path.name not in _ARCHIVES:
            return None
        kind = (100 if "100" in path.name else 10, "binary" in path.name)
        pair = next(p for p, (n, b) in _KINDS.items() if (n, b > 0) == kind)
        return lambda name: _member(path, name), pair, path
    for pair in _KINDS:
        if all((path / name).is_file() for name in pair):
            return lambda name: (path / name).read_bytes(), pair, path
    for inner in (*_FOLDERS, *_ARCHIVES):
        if (path / inner).exists() and (found := _locate(path / inner)):
            return found
    return None


def _member(path: Path, name: str) -> bytes:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.rsplit("/", 1)[-1] == name and (stream := archive.extractfile(member)):
                return stream.read()
    raise KeyError(f"no {name}")


def _from_binary(content: bytes, label_bytes: int) -> tuple[np.ndarray, list[int]]:
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].tolist()


def _from_pickle(content: bytes, classes: int) -> tuple[np.ndarray, list[int]]:
    document = _unpickle(content)
    labels = document["labels" if classes == 10 else "fine_labels"]
    pixels = np.asarray(document["data"], dtype=np.uint8).reshape(-1, _PIXELS)
    return pixels, [int(label) for label in labels]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"its pickle wants {module}.{name}, which is refused")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(content: bytes) -> dict[str, Any]:
    document = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    return {_text(key): value for key, value in document.items()}


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else value
