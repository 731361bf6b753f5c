"""What `prune` gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strzoo.evaluation.results import EvalResult

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PrunedLayer:
    """One layer: sparsity in percent; `error` is the mean square of the change of its outputs on
    the calibration images, relative to that of the outputs."""

    name: str
    shape: tuple[int, ...]
    weights: int
    sparsity: float
    error: float


@dataclass(frozen=True)
class PruneResult:
    """A network pruned at once, and what it lost.

    `network` is dense, with zeros, in evaluation mode. `sparsity` and `before_sparsity` are percent
    of all convolution and linear weights, `images` the number of calibration images. `before` and
    `after` are the evaluations, None without validation images; `file` is what was written, None
    without an output. `batchnorms` is how many layers of statistics were taken again.
    """

    network: nn.Module = field(repr=False, compare=False)
    model: str
    method: str
    before_sparsity: float
    sparsity: float
    images: int
    batchnorms: int
    layers: tuple[PrunedLayer, ...]
    before: EvalResult | None
    after: EvalResult | None
    file: Path | None
    seconds: float

    @property
    def lost(self) -> float | None:
        """Top-1 before minus after, in percentage points; None without validation images."""
        if self.before is None or self.after is None:
            return None
        return self.before.top1 - self.after.top1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": 1,
            "model": self.model,
            "method": self.method,
            "before_sparsity": self.before_sparsity,
            "sparsity": self.sparsity,
            "images": self.images,
            "batchnorms": self.batchnorms,
            "layers": [asdict(layer) for layer in self.layers],
            "before": None if self.before is None else self.before.to_dict(),
            "after": None if self.after is None else self.after.to_dict(),
            "lost": self.lost,
            "file": None if self.file is None else str(self.file),
            "seconds": self.seconds,
        }
