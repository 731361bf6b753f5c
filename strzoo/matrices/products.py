"""A layer as a matrix product, whatever it was read from."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strzoo.files import utf8


@dataclass(frozen=True)
class Geometry:
    """Where the weights of a layer lie, and what they are applied to.

    `shape` is the weight's; `input_size` and `output_size` are those of one image, () where they
    are not known.
    """

    layer: str
    type: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """One layer: `rows` are its weights [O, C/groups x kernel] in fp32; `positions` are the axes of
    the output in which they repeat."""

    geometry: Geometry
    rows: NDArray[np.float32]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Products:
    """The layers of a model for images of `input_size`; `images` inputs were saved for each.

    `budget` names the published budget that random weights were pruned to, if they were.
    """

    products: tuple[Product, ...]
    skipped: tuple[str, ...]
    input_size: tuple[int, ...]
    images: int
    budget: str | None = None


def file_stem(layer: str) -> str:
    """The name of a layer's files, one of its own within their folder."""
    plain = re.sub(r"[^\w.#-]", "_", layer).lstrip(".")[:150] or "model"
    return plain if plain == layer or not layer else f"{plain}-{zlib.crc32(utf8(layer)):08x}"


def activations_file(layer: str) -> str:
    """The name of the file of a layer's inputs."""
    return f"{file_stem(layer)}.input.npy"
