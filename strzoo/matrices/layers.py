"""One layer as a matrix product, whatever the model is read from. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FROM_MODEL, RANDOM = "model", "random"
_LONGEST = 120  # characters of a file's name


@dataclass(frozen=True)
class Layer:
    """A convolution or linear; fields as of `LayerMatrix`.

    `stem` is what its files are called, `read_weight` gives its matrix, fp32 [groups x m, k];
    `positions` is n.
    """

    name: str
    stem: str
    type: str
    shape: tuple[int, ...]
    read_weight: Callable[[], NDArray[np.float32]]
    input_size: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    positions: int = 0
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    activations: str | None = None


@dataclass(frozen=True)
class Layers:
    """The layers of a model in its order, and what of it is no matrix product."""

    layers: tuple[Layer, ...]
    skipped: tuple[str, ...]
    input_size: tuple[int, ...]
    images: int
    weights: str = FROM_MODEL
    notes: tuple[str, ...] = ()


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """What the files of each layer are called. Names of tensors in foreign files may hold
    anything, and what differs in letters' case alone is one file on some systems."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for number, name in enumerate(names):
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-+#") else "_" for c in name)
        stem = safe[:_LONGEST].lstrip(".") or "model"
        if stem.lower() in taken:
            stem = f"{stem}.{number}"
        taken.add(stem.lower())
        stems[name] = stem
    return stems


def activations_file(stem: str) -> str:
    """The file of a layer's input."""
    return f"{stem}.input.npy"
