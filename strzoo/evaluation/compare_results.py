"""The results of a comparison of models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from strzoo.analysis.comparison import Comparison
from strzoo.analysis.masks import MaskOverlap
from strzoo.analysis.results import CONVENTION, Report


@dataclass(frozen=True)
class ModelTotals:
    """One model as a whole: convolution and linear weights, the percent of them that are zero, MACs
    of one image; None where they are not known. `source` is as in `Report`, or "plan" for a
    compiled plan, which knows no MACs. `published` sets the published figures of a model of the zoo
    against these, `published_top1` is its accuracy in percent."""

    name: str
    source: str
    weights: int | None
    nonzeros: int | None
    sparsity: float | None
    dense_macs: int | None = None
    sparse_macs: int | None = None
    published_top1: float | None = None
    published: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class LayerComparison:
    """One layer in all models, None in those that lack it or do not know: the shape of its weight,
    sparsity in percent, MACs left."""

    name: str
    shapes: tuple[tuple[int, ...] | None, ...]
    sparsity: tuple[float | None, ...]
    sparse_macs: tuple[int | None, ...]

    @property
    def spread(self) -> float | None:
        """The largest sparsity minus the smallest, in percentage points; None for one model."""
        known = [value for value in self.sparsity if value is not None]
        return max(known) - min(known) if len(known) > 1 else None


@dataclass(frozen=True)
class Agreement:
    """How far two models give the same answers on `images` pictures: the percentage with the same
    most likely class, and the share of the five best that both name, in percent."""

    first: str
    second: str
    images: int
    top1: float
    top5: float


@dataclass(frozen=True)
class ModelComparison:
    """Several models: `names`, `totals` and `reports` in the order given (no report of a compiled
    plan), the layers of all, the pairs that could be compared, and what could not."""

    names: tuple[str, ...]
    totals: tuple[ModelTotals, ...]
    reports: tuple[Report | None, ...]
    layers: tuple[LayerComparison, ...]
    masks: tuple[MaskOverlap, ...]
    agreement: tuple[Agreement, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        models = [
            {**({} if made is None else made.to_dict()["totals"]), **asdict(total)}
            for total, made in zip(self.totals, self.reports, strict=True)
        ]
        return {
            "schema": 1,
            "convention": CONVENTION,
            "models": models,
            "layers": [{**asdict(layer), "spread": layer.spread} for layer in self.layers],
            "masks": [asdict(pair) for pair in self.masks],
            "agreement": [asdict(pair) for pair in self.agreement],
            "notes": list(self.notes),
        }
