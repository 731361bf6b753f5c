"""The report on a compiled model."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from strzoo.engine.ir.graph import Shape
from strzoo.engine.ir.parts import Division, Island

_MOST_SHOWN = 8  # operators in a line


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
        precision: "int16" or "int8".
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
class PartReport:
    """A part of a network, and what runs it.

    Args:
        engine: "strzoo" or "onnxruntime".
        nodes: of the ONNX graph.
        operators: how many nodes of each; empty for strzoo's.
        macs: multiply-accumulates of one image, zeros included, as far as shapes are known.
        seconds: for one image, measured when it was compiled; 0 where it was not.
    """

    engine: str
    nodes: int
    operators: dict[str, int]
    macs: int
    seconds: float


def describe_parts(division: Division | None) -> tuple[PartReport, ...]:
    """The parts of a network in the order in which they run; none if the engine runs all of it."""
    if division is None or not division.islands:
        return ()
    seconds = division.seconds or (0.0,) * len(division.steps)
    return tuple(
        PartReport("onnxruntime", step.nodes, dict(step.operators), step.macs, each)
        if isinstance(step, Island)
        else PartReport("strzoo", step.nodes, {}, step.macs, each)
        for step, each in zip(division.steps, seconds, strict=True)
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
        parts: what the engine and what onnxruntime runs; empty if the engine runs all.
        alone: seconds that onnxruntime alone took for one image; 0 where it was not measured.
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
    parts: tuple[PartReport, ...] = ()
    alone: float = 0.0

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
            "parts": [asdict(part) for part in self.parts],
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
            *self._summarize_parts(),
        ]

    def _summarize_parts(self) -> list[str]:
        """What onnxruntime runs, and whether the engine is worth it."""
        if not self.parts:
            return []
        outside = [part for part in self.parts if part.engine == "onnxruntime"]
        nodes, macs, seconds = (
            [sum(getattr(part, name) for part in parts) for parts in (outside, self.parts)]
            for name in ("nodes", "macs", "seconds")
        )
        operators: Counter[str] = Counter()
        for part in outside:
            operators.update(part.operators)
        shown = ", ".join(f"{name} {count}" for name, count in operators.most_common(_MOST_SHOWN))
        more = len(operators) - _MOST_SHOWN
        shown += f" and {more} more" if more > 0 else ""
        if len(outside) == len(self.parts):
            slower = " (it is faster than the engine with hand-overs)" if self.alone else ""
            return [
                f"all of it runs in onnxruntime{slower}: nothing is gained by compiling; {shown}"
            ]
        lines = [
            f"onnxruntime runs {len(outside)} of {len(self.parts)} parts: {nodes[0]} of {nodes[1]} "
            f"nodes, {_percent(*macs)} of the MACs, {_percent(*seconds)} of the time; {shown}"
        ]
        if self.alone:
            lines.append(
                f"measured for one image: {1e3 * seconds[1]:.2f} ms, onnxruntime alone "
                f"{1e3 * self.alone:.2f} ms ({self.alone / max(seconds[1], 1e-9):.2f}x)"
            )
        return lines

    def describe(self) -> str:
        """A line per layer, then the totals."""
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [
            f"{layer.name:<{width}}  {layer.density:6.2f} %  {layer.gain:6.2f}x  {layer.form}"
            for layer in self.layers
        ]
        return "\n".join([*lines, *self.summary()])


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "an unknown part"


def _spell(shape: Shape) -> str:
    return "x".join(map(str, shape))
