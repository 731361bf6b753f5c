"""A network in parts: sections that the engine runs, and islands that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from strzoo.engine.ir.graph import Shape

# The number of images in what a network computes with shapes: no file holds this value.
MANY = -(2**31) + 11


@dataclass(frozen=True)
class Problem:
    """An operator that the engine lacks, one of its nodes, and what is missing."""

    operator: str
    node: str
    reason: str


@dataclass(frozen=True)
class Port:
    """An input or an output of a network.

    Args:
        name: as the network calls it.
        dtype: of NumPy, such as "float32".
        shape: the batch included; None where a size is open.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Feed:
    """The array `value`, under another name, read as [N, *shape]; None: in its own shape."""

    name: str
    value: str
    shape: Shape | None = None


@dataclass(frozen=True)
class Section:
    """A graph that the engine runs, as its neighbours see it.

    Args:
        inputs: arrays [N, *shape] that steps before it make; the graph's inputs, in order.
        outputs: the arrays that it makes, in the order of the graph's outputs.
        nodes: of the ONNX file that it stands for.
        macs: multiply-accumulates of one image by all weights, zeros included.
    """

    inputs: tuple[Feed, ...]
    outputs: tuple[Feed, ...]
    nodes: int
    macs: int


@dataclass(frozen=True, eq=False)
class Island:
    """A part of a network as an ONNX model of its own, which onnxruntime runs.

    Args:
        model: the ONNX model.
        inputs: its inputs, as arrays that steps before it make.
        outputs: names of its outputs and of the arrays that they are.
        sizes: further inputs that depend on the number of images alone: int64, with MANY where that
            number belongs.
        operators: how many nodes it has of each.
        macs: multiply-accumulates of one image, as far as shapes are known.
    """

    model: bytes
    inputs: tuple[Feed, ...]
    outputs: tuple[str, ...]
    sizes: tuple[tuple[str, np.ndarray], ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    macs: int = 0

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


@dataclass(frozen=True, eq=False)
class Division:
    """A whole network as steps in execution order.

    Args:
        inputs, outputs: as the network declares them.
        steps: each reads inputs and what steps before it make.
        results: of which arrays the outputs are made, in their order.
        batch: the number of images that islands take at a time; None for any.
        left: outputs of the nodes that were left to onnxruntime although the engine has them.
        problems: why the engine lacks the others.
        seconds: that each step took when it was measured; empty where it was not.
        alone: seconds that onnxruntime took for the whole network; 0 where it was not measured.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Section | Island, ...]
    results: tuple[Feed, ...]
    batch: int | None = None
    left: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    seconds: tuple[float, ...] = ()
    alone: float = 0.0

    @property
    def sections(self) -> tuple[Section, ...]:
        return tuple(step for step in self.steps if isinstance(step, Section))

    @property
    def islands(self) -> tuple[Island, ...]:
        return tuple(step for step in self.steps if isinstance(step, Island))

    @property
    def single(self) -> bool:
        """Whether it is one graph of one input and one output."""
        return not self.islands and len(self.inputs) == len(self.outputs) == 1

    @property
    def plain(self) -> bool:
        """Whether it is one graph whose input and output are the network's, in its shapes."""
        made = self.results[0].shape
        return self.single and all(step.outputs[0].shape == made for step in self.sections)
