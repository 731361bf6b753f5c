"""What ONNX names stand for, besides values of the graph: values read in another shape or order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strzoo.engine.ir.graph import Shape


@dataclass(frozen=True)
class View:
    """What an ONNX name stands for: one of our values, read in another shape (one image's).

    Reshaping makes no layer before something needs the new shape. `maker` is the operator and
    name of the node that reshaped.
    """

    value: str
    shape: Shape
    maker: tuple[str, str]


@dataclass(frozen=True)
class Padding:
    """`value` with `number` around it, as a window takes it without a padded map in between."""

    value: str
    pads: tuple[int, int, int, int]
    number: float


@dataclass(frozen=True, eq=False)
class Rearranged:
    """The numbers of `value` at `index`, counted channel by channel, in the shape of `index`."""

    value: str
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Moved:
    """The numbers of `value` at `index`, as above, where the axis of the images is number `at`."""

    value: str
    index: np.ndarray
    at: int
