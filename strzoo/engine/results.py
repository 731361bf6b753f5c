"""The report on a compiled model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from strzoo.engine.ir.graph import Shape


@dataclass(frozen=True)
class LayerChoice:
    """How a layer runs and what that is expected to gain.

    Args:
        kind: "convolution", "depthwise" or "linear".
        form: in words, such as "sparse, tile 14, 2 blocks" or "dense, 4 rows, tile 6".
        cycles, dense_cycles: of one core for a group, by the cost model; the latter for the best
            dense form of the same layer.
    """

    name: str
    kind: str
    form: str
    weights: int
    nonzeros: int
    cycles: float
    dense_cycles: float

    @property
    def density(self) -> float:
        """Nonzero weights, in percent."""
        return 100 * self.nonzeros / max(self.weights, 1)

    @property
    def gain(self) -> float:
        """Expected time of the dense form / expected time as chosen."""
        return self.dense_cycles / max(self.cycles, 1e-9)


@dataclass(frozen=True)
class PrecisionReport:
    """How a network runs in 16-bit fixed point, and how its results agree with fp32.

    Args:
        precision: "int16".
        images: what it was calibrated with: "photographs" or "digits" (bundled), a folder, or
            "the given images".
        calibrated, held_out: numbers of images, to calibrate with and to compare on.
        tolerance: the largest relative error (root mean square) that a layer may add.
        layers: that run in fixed point.
        error: the largest that one of them adds.
        lossy: layers in fp32 because they would add more.
        top1: held-out images whose largest output is the same as in fp32, in percent.
        snr: of the outputs on the held-out images, in dB; infinite if they are equal.
    """

    precision: str
    images: str
    calibrated: int
    held_out: int
    tolerance: float
    layers: int
    error: float
    lossy: tuple[str, ...]
    top1: float
    snr: float

    def summary(self) -> str:
        """In a line."""
        kept = f"; in fp32 for accuracy: {', '.join(self.lossy)}" if self.lossy else ""
        if not self.layers:
            return f"{self.precision}: no layer gains from it, all run in fp32{kept}"
        return (
            f"{self.precision}: {self.layers} layers, calibrated with {self.calibrated} of "
            f"{self.images}; agreement with fp32 on {self.held_out} others: top-1 {self.top1:.1f} "
            f"%, {self.snr:.1f} dB{kept}"
        )


@dataclass(frozen=True)
class CompileReport:
    """What was made of a network, layer by layer.

    Args:
        input_shape, output_shape: of one image.
        threads: that a call uses.
        images: that go together where there are enough.
        constants: bytes of weights and tables; arena: bytes that one run works in.
        tuned: seconds that measuring could take; 0 for fixed rules.
        cached: whether the plan came from the cache.
        fixed: how it runs in 16-bit fixed point; None if all of it runs in fp32.
    """

    model: str
    input_shape: Shape
    output_shape: Shape
    threads: int
    images: int
    layers: tuple[LayerChoice, ...]
    constants: int
    arena: int
    processor: str
    lanes: int
    tuned: float
    cached: bool
    seconds: float
    fixed: PrecisionReport | None = None

    @property
    def gain(self) -> float:
        """Expected gain of the layers with weights, together."""
        dense = sum(layer.dense_cycles for layer in self.layers)
        return dense / max(sum(layer.cycles for layer in self.layers), 1e-9)

    @property
    def sparsity(self) -> float:
        """Zeros among all weights, in percent."""
        weights = sum(layer.weights for layer in self.layers)
        return 100 - 100 * sum(layer.nonzeros for layer in self.layers) / max(weights, 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        fixed = None
        if self.fixed is not None:
            snr = self.fixed.snr if math.isfinite(self.fixed.snr) else None
            fixed = {**asdict(self.fixed), "snr": snr}
        return {
            "schema": 1,
            **{name: value for name, value in asdict(self).items() if name != "layers"},
            "fixed": fixed,
            "sparsity": self.sparsity,
            "gain": self.gain,
            "layers": [
                {**asdict(layer), "density": layer.density, "gain": layer.gain}
                for layer in self.layers
            ],
        }

    def summary(self) -> list[str]:
        """The totals, a line each."""
        sparse = sum(layer.form.startswith("sparse") for layer in self.layers)
        fixed = [] if self.fixed is None else [self.fixed.summary()]
        return [
            f"{self.model}: {_spell(self.input_shape)} -> {_spell(self.output_shape)}, "
            f"{self.threads} threads, groups of {self.images}",
            f"{sparse} of {len(self.layers)} layers run sparse; {self.sparsity:.2f} % zeros; "
            f"expected gain over dense {self.gain:.2f}",
            f"weights and tables {self.constants / 1e6:.1f} MB, work space "
            f"{self.arena / 1e6:.1f} MB; {self.processor}, {self.lanes} lanes",
            *fixed,
        ]

    def describe(self) -> str:
        """A line per layer, then the totals."""
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [
            f"{layer.name:<{width}}  {layer.density:6.2f} %  {layer.gain:6.2f}x  {layer.form}"
            for layer in self.layers
        ]
        return "\n".join([*lines, *self.summary()])


def _spell(shape: Shape) -> str:
    return "x".join(map(str, shape))
