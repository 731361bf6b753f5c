"""The records of a trade-off between accuracy and latency, and which point of it to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from strzoo.benchmarking.results import FASTER, judge

ENGINES = ("onnxruntime", "int8", "sparse")
CONVENTION = (
    "top-1 in percent; latency of one batch in ms, the median; ratio = median of the given network "
    "on onnxruntime / median of this row, above 1 is faster; int8 is onnxruntime on a static int8 "
    "file"
)
_WORTH = 1.05  # a difference of speed below this is nothing
_SPELLED = {
    "onnxruntime": "on onnxruntime",
    "int8": "in int8 on onnxruntime",
    "sparse": "on the sparse engine",
}


@dataclass(frozen=True)
class TradeoffPoint:
    """The network at one sparsity (percent) on one of `ENGINES`.

    `top1` in percent, `p50` and `fastest` in milliseconds per batch, `ratio` as in `CONVENTION`.
    """

    sparsity: float
    engine: str
    top1: float
    p50: float
    fastest: float
    ratio: float
    latencies: tuple[float, ...]

    @property
    def name(self) -> str:
        """In words, as in "80 % on the sparse engine"."""
        zeros = f"{self.sparsity:.0f} %" if self.sparsity >= 0.5 else "the dense network"
        return f"{zeros} {_SPELLED[self.engine]}"


@dataclass(frozen=True)
class Recommendation:
    """The point to take, by its sparsity (percent) and engine, and why."""

    sparsity: float
    engine: str
    reason: str


@dataclass(frozen=True)
class TradeoffResult:
    """Accuracy and latency of one network at several sparsities.

    `points` are in order of sparsity; the first is the given network on onnxruntime. `images` is
    the number of validation images, `margin` half the 95 % confidence interval of the first
    point's top-1, in points. `how` says how the sparse networks were made.
    """

    model: str
    how: str
    points: tuple[TradeoffPoint, ...]
    recommendation: Recommendation
    max_loss: float
    images: int
    margin: float
    batch: int
    threads: int
    machine: str
    versions: dict[str, str]
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"schema": 1, "convention": CONVENTION, **asdict(self)}


def recommend(
    points: Sequence[TradeoffPoint], max_loss: float, images: int, margin: float
) -> Recommendation:
    """The fastest of the points that lose at most `max_loss` points of top-1, if it is faster.

    Of those that are nearly as fast, the most accurate.

    Args:
        points: the first is what the others are compared with.
        max_loss: percentage points.
        images: of the validation.
        margin: half the confidence interval of the first point's top-1.
    """
    first = points[0]
    allowed = [p for p in points if first.top1 - p.top1 <= max_loss]
    fastest = min(allowed, key=lambda p: p.p50)
    near = [p for p in allowed if p.p50 <= fastest.p50 * _WORTH]
    best = max(near, key=lambda p: (p.top1, -p.p50))
    if judge(best.latencies, first.latencies) != FASTER:
        best = first
    parts = [_say_best(best, first, fastest, max_loss)]
    others = [p for p in points if p.p50 * _WORTH < best.p50 and p not in allowed]
    if others:
        tempting = min(others, key=lambda p: first.top1 - p.top1)
        parts.append(
            f"{tempting.name} would be {tempting.ratio:.2f} times as fast but loses "
            f"{first.top1 - tempting.top1:.2f} points, more than the {max_loss:g} allowed"
        )
    if best.engine == "int8":
        sparse = [p for p in allowed if p.engine == "sparse" and p.ratio > 1]
        if sparse:
            nearest = min(sparse, key=lambda p: p.p50)
            parts.append(f"the fastest without int8 is {nearest.name}, {nearest.ratio:.2f} times")
    if margin > max_loss:
        parts.append(
            f"{images:,} images tell top-1 to {margin:.1f} points only: use more to be sure"
        )
    return Recommendation(best.sparsity, best.engine, "; ".join(parts))


def _say_best(
    best: TradeoffPoint, first: TradeoffPoint, fastest: TradeoffPoint, max_loss: float
) -> str:
    if best is first:
        return (
            f"{first.name}: no point that loses at most {max_loss:g} points of top-1 is faster by "
            f"more than chance (the fastest, {fastest.name}, has {fastest.ratio:.2f} times its "
            "speed)"
        )
    lost = first.top1 - best.top1
    price = f"for {lost:.2f} points of top-1" if lost > 0 else "without loss of top-1"
    return f"{best.name}: {best.ratio:.2f} times as fast as {first.name}, {price}"
